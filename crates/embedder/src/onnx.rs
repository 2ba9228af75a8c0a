//! What an ONNX file says of its weights, read without loading it.
//!
//! An ONNX file is a protobuf `ModelProto`. The C API does not tell a model's operators or weight types, and the two
//! questions asked here need a handful of its fields, so they are picked out directly; weights are seeked over.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::Error;

/// How a model stores most of its weights, and whether it quantises activations while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// `TensorProto.DataType` that most weight bytes have.
    data_type: u64,
    /// The scale of a tensor is taken from all texts of a batch, so a text's vector would depend on its company:
    /// such a model runs one text at a time.
    pub dynamically_quantized: bool,
    /// Whether all weights are in this file. False for one with weights in other files, and for one with graphs inside
    /// its graph (`If`, `Loop`), which are not looked into: no encoder has them.
    pub weights_inside: bool,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Numbers: enum TensorProto.DataType in onnx.proto.
        f.write_str(match self.data_type {
            1 => "float32",
            2 => "uint8",
            3 => "int8",
            10 => "float16",
            16 => "bfloat16",
            _ => "other",
        })?;
        if self.dynamically_quantized { f.write_str(" (dynamically quantized)") } else { Ok(()) }
    }
}

impl Precision {
    /// Errors: [`Error::Unreadable`]; [`Error::InvalidFile`] for a file that is no ONNX model or is cut short.
    pub fn read(path: &Path) -> Result<Precision, Error> {
        let file = File::open(path).map_err(Error::unreadable(path))?;
        let bytes = file.metadata().map_err(Error::unreadable(path))?.len();
        let mut reader = Proto { input: BufReader::new(file), position: 0 };
        let mut found = Found::default();
        // ModelProto.graph = 7
        reader
            .fields(bytes, &mut |reader, field, end| match field {
                7 => reader.graph(end, &mut found),
                _ => Ok(()),
            })
            .map_err(|reason| Error::invalid(path, format!("not a whole ONNX file: {reason}")))?;
        match found.weight_bytes.iter().max_by_key(|(_, bytes)| *bytes) {
            Some(&(data_type, _)) => Ok(Precision {
                data_type,
                dynamically_quantized: found.dynamically_quantized,
                weights_inside: !found.weights_elsewhere,
            }),
            None => Err(Error::invalid(path, "not an ONNX model with weights")),
        }
    }
}

#[derive(Default)]
struct Found {
    /// (TensorProto.DataType, bytes of the tensors that have it)
    weight_bytes: Vec<(u64, u64)>,
    dynamically_quantized: bool,
    weights_elsewhere: bool,
}

struct Proto {
    input: BufReader<File>,
    position: u64,
}

/// Longest operator name that is looked at; real ones have fewer than 40 bytes.
const MAX_NAME: u64 = 256;

impl Proto {
    /// GraphProto: node = 1, initializer = 5.
    fn graph(&mut self, end: u64, found: &mut Found) -> Result<(), String> {
        self.fields(end, &mut |reader, field, end| match field {
            1 => reader.node(end, found),
            5 => reader.tensor(end, found),
            _ => Ok(()),
        })
    }

    /// NodeProto: op_type = 4, attribute = 5.
    fn node(&mut self, end: u64, found: &mut Found) -> Result<(), String> {
        self.fields(end, &mut |reader, field, end| {
            let length = end - reader.position;
            if field == 4 && length <= MAX_NAME {
                let mut name = vec![0; length as usize];
                reader.read(&mut name)?;
                // DynamicQuantizeLinear, DynamicQuantizeMatMul, DynamicQuantizeLSTM
                found.dynamically_quantized |= name.starts_with(b"DynamicQuantize");
            }
            if field == 5 { reader.attribute(end, found) } else { Ok(()) }
        })
    }

    /// AttributeProto: t = 5, g = 6, tensors = 10, graphs = 11.
    fn attribute(&mut self, end: u64, found: &mut Found) -> Result<(), String> {
        self.fields(end, &mut |reader, field, end| {
            match field {
                5 | 10 => return reader.tensor(end, found),
                6 | 11 => found.weights_elsewhere = true,
                _ => {}
            }
            Ok(())
        })
    }

    /// TensorProto: data_type = 2 and data_location = 14, varints, which `fields` does not hand out.
    fn tensor(&mut self, end: u64, found: &mut Found) -> Result<(), String> {
        let bytes = end - self.position;
        let mut data_type = 0;
        while self.position < end {
            let (field, wire) = self.tag()?;
            match (field, wire) {
                (2, 0) => data_type = self.varint()?,
                // 1 is EXTERNAL.
                (14, 0) => found.weights_elsewhere |= self.varint()? != 0,
                _ => {
                    let field_end = self.field_end(wire, end)?;
                    self.seek(field_end)?;
                }
            }
        }
        if self.position > end {
            return Err(format!("a tensor before byte {} is longer than what holds it", self.position));
        }
        match found.weight_bytes.iter_mut().find(|(known, _)| *known == data_type) {
            Some((_, sum)) => *sum += bytes,
            None => found.weight_bytes.push((data_type, bytes)),
        }
        Ok(())
    }

    /// Calls `visit(reader, field number, end)` for every length-delimited field up to `end`, and skips the rest of
    /// each, whatever the visitor read of it.
    fn fields(
        &mut self,
        end: u64,
        visit: &mut dyn FnMut(&mut Proto, u64, u64) -> Result<(), String>,
    ) -> Result<(), String> {
        while self.position < end {
            let (field, wire) = self.tag()?;
            let field_end = self.field_end(wire, end)?;
            if wire == 2 {
                visit(self, field, field_end)?;
            }
            self.seek(field_end)?;
        }
        Ok(())
    }

    fn tag(&mut self) -> Result<(u64, u64), String> {
        let tag = self.varint()?;
        Ok((tag >> 3, tag & 7))
    }

    /// Where the field whose tag was just read ends. A varint is read to find out.
    fn field_end(&mut self, wire: u64, end: u64) -> Result<u64, String> {
        let length = match wire {
            0 => self.varint().map(|_| 0)?,
            1 => 8,
            2 => self.varint()?,
            5 => 4,
            _ => return Err(format!("unexpected wire type at byte {}", self.position)),
        };
        let field_end = self.position.checked_add(length).filter(|field_end| *field_end <= end);
        field_end.ok_or_else(|| format!("a field at byte {} is longer than what holds it", self.position))
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.read(&mut byte)?;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                return Ok(value);
            }
        }
        Err(format!("unterminated number at byte {}", self.position))
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), String> {
        self.input.read_exact(buffer).map_err(|e| e.to_string())?;
        self.position += buffer.len() as u64;
        Ok(())
    }

    fn seek(&mut self, to: u64) -> Result<(), String> {
        if to != self.position {
            // `seek_relative` keeps the buffer for the many short skips.
            let distance = i64::try_from(to - self.position).map_err(|e| e.to_string())?;
            self.input
                .seek_relative(distance)
                .or_else(|_| self.input.seek(SeekFrom::Start(to)).map(|_| ()))
                .map_err(|e| e.to_string())?;
            self.position = to;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A length-delimited field of fewer than 128 bytes.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }

    #[test]
    fn weights_in_other_files_are_noticed() {
        // TensorProto: data_type = FLOAT; data_location = EXTERNAL.
        let (inside, elsewhere) = ([2 << 3, 1], [2 << 3, 1, 14 << 3, 1]);
        let initializer = |tensor: &[u8]| field(5, tensor);
        let constant = |attribute, tensor: &[u8]| field(1, &field(5, &field(attribute, tensor)));
        let cases = [
            (initializer(&inside), true),
            (initializer(&elsewhere), false),
            (constant(5, &inside), true),
            (constant(5, &elsewhere), false),
            (constant(10, &elsewhere), false),
            // A graph in a node, whatever is in it.
            ([initializer(&inside), constant(6, &[])].concat(), false),
            ([initializer(&inside), constant(11, &[])].concat(), false),
        ];
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("model.onnx");
        for (graph, expected) in cases {
            std::fs::write(&file, field(7, &graph)).unwrap();
            assert_eq!(Precision::read(&file).unwrap().weights_inside, expected, "{graph:?}");
        }
    }
}
