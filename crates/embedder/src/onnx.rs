//! What an ONNX file says of itself, read without loading it.
//!
//! An ONNX file is a protobuf `ModelProto`. The C API does not tell a model's operators or weight types, and what is asked
//! here needs a handful of its fields, so they are picked out directly; weights are seeked over.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::Error;

/// How a model stores its weights, and whether it quantises activations while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precision {
    /// Those that have a part in the weights that is worth telling, the largest part first.
    types: Vec<ElementType>,
    /// The scale of a tensor is taken from all texts of a batch, so a text's vector would depend on its company:
    /// such a model runs one text at a time.
    pub dynamically_quantized: bool,
    /// Whether all weights are in this file. False for one with weights in other files, and for one with graphs inside
    /// its graph (`If`, `Loop`), which are not looked into: no encoder has them.
    pub weights_inside: bool,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types: Vec<String> = self.types.iter().map(ElementType::to_string).collect();
        f.write_str(&types.join(", "))?;
        if self.dynamically_quantized { f.write_str(" (dynamically quantized)") } else { Ok(()) }
    }
}

/// `TensorProto.DataType` of onnx.proto.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElementType(u64);

impl ElementType {
    pub const FLOAT32: ElementType = ElementType(1);
    pub const INT64: ElementType = ElementType(7);
    pub const FLOAT16: ElementType = ElementType(10);
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            1 => "float32",
            2 => "uint8",
            3 => "int8",
            6 => "int32",
            7 => "int64",
            10 => "float16",
            11 => "float64",
            16 => "bfloat16",
            _ => "other",
        })
    }
}

/// An input or an output of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    pub name: String,
    /// `None` for what is no tensor.
    pub element_type: Option<ElementType>,
    /// `None` for a dimension that is known only when the model runs.
    pub shape: Vec<Option<u64>>,
}

/// What is asked of a file.
#[derive(Debug)]
pub struct OnnxFile {
    pub precision: Precision,
    /// What the model must be given: initializers left out, which old files list among the inputs.
    pub inputs: Vec<Value>,
    pub outputs: Vec<Value>,
    /// Files beside this one that hold weights.
    pub weight_files: Vec<PathBuf>,
}

/// Of the weights' bytes a type must have one part in this many to be told: a layer's biases and norms are float32 in
/// every model.
const TOLD_SHARE: u64 = 10;

impl OnnxFile {
    /// Errors: [`Error::Unreadable`]; [`Error::InvalidFile`] for a file that is no ONNX model or is cut short, and for one
    /// that lacks a file with weights.
    pub fn read(path: &Path) -> Result<OnnxFile, Error> {
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
        let weight_files: Vec<PathBuf> = found.files.iter().map(|name| path.with_file_name(name)).collect();
        for file in &weight_files {
            std::fs::metadata(file).map_err(Error::unreadable(file))?;
        }
        // Sums saturate: a broken file can claim any length.
        let all = found.weight_bytes.iter().fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        if all == 0 && found.files.is_empty() {
            return Err(Error::invalid(path, "not an ONNX model with weights"));
        }
        found.weight_bytes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let told = found.weight_bytes.iter().filter(|(_, bytes)| *bytes >= all / TOLD_SHARE);
        Ok(OnnxFile {
            precision: Precision {
                types: told.map(|(data_type, _)| *data_type).collect(),
                dynamically_quantized: found.dynamically_quantized,
                weights_inside: !found.weights_elsewhere,
            },
            inputs: found
                .inputs
                .into_iter()
                .filter(|input| !found.initializers.contains(&input.name))
                .collect(),
            outputs: found.outputs,
            weight_files,
        })
    }
}

#[derive(Default)]
struct Found {
    /// Types, and bytes of the tensors that have them.
    weight_bytes: Vec<(ElementType, u64)>,
    dynamically_quantized: bool,
    weights_elsewhere: bool,
    /// Names of the files beside this one that hold weights.
    files: Vec<String>,
    initializers: HashSet<String>,
    inputs: Vec<Value>,
    outputs: Vec<Value>,
}

struct Proto {
    input: BufReader<File>,
    position: u64,
}

/// Longest name that is looked at; those of operators have fewer than 40 bytes, those of tensors about 100.
const MAX_NAME: u64 = 4096;

impl Proto {
    /// GraphProto: node = 1, initializer = 5, input = 11, output = 12.
    fn graph(&mut self, end: u64, found: &mut Found) -> Result<(), String> {
        self.fields(end, &mut |reader, field, end| {
            match field {
                1 => reader.node(end, found)?,
                5 => {
                    let name = reader.tensor(end, found)?;
                    found.initializers.insert(name);
                }
                11 => found.inputs.push(reader.value(end)?),
                12 => found.outputs.push(reader.value(end)?),
                _ => {}
            }
            Ok(())
        })
    }

    /// NodeProto: op_type = 4, attribute = 5.
    fn node(&mut self, end: u64, found: &mut Found) -> Result<(), String> {
        self.fields(end, &mut |reader, field, end| {
            match field {
                // DynamicQuantizeLinear, DynamicQuantizeMatMul, DynamicQuantizeLSTM
                4 => found.dynamically_quantized |= reader.name(end)?.starts_with("DynamicQuantize"),
                5 => reader.attribute(end, found)?,
                _ => {}
            }
            Ok(())
        })
    }

    /// AttributeProto: t = 5, g = 6, tensors = 10, graphs = 11.
    fn attribute(&mut self, end: u64, found: &mut Found) -> Result<(), String> {
        self.fields(end, &mut |reader, field, end| {
            match field {
                5 | 10 => drop(reader.tensor(end, found)?),
                6 | 11 => found.weights_elsewhere = true,
                _ => {}
            }
            Ok(())
        })
    }

    /// TensorProto: data_type = 2 and data_location = 14, varints, which `fields` does not hand out; name = 8,
    /// external_data = 13. Returns its name.
    fn tensor(&mut self, end: u64, found: &mut Found) -> Result<String, String> {
        let mut bytes = end - self.position;
        let (mut data_type, mut name) = (0, String::new());
        while self.position < end {
            let (field, wire) = self.tag()?;
            match (field, wire) {
                (2, 0) => data_type = self.varint()?,
                // 1 is EXTERNAL.
                (14, 0) => found.weights_elsewhere |= self.varint()? != 0,
                _ => {
                    let field_end = self.field_end(wire, end)?;
                    match (field, wire) {
                        (8, 2) => name = self.name(field_end)?,
                        (13, 2) => bytes = bytes.saturating_add(self.external_data(field_end, found)?),
                        _ => {}
                    }
                    self.seek(field_end)?;
                }
            }
        }
        if self.position > end {
            return Err(format!("a tensor before byte {} is longer than what holds it", self.position));
        }
        match found.weight_bytes.iter_mut().find(|(known, _)| known.0 == data_type) {
            Some((_, sum)) => *sum = sum.saturating_add(bytes),
            None => found.weight_bytes.push((ElementType(data_type), bytes)),
        }
        Ok(name)
    }

    /// StringStringEntryProto: key = 1, value = 2. The key "location" has the name of a file, "length" how many bytes of it are the
    /// tensor's, which are returned.
    fn external_data(&mut self, end: u64, found: &mut Found) -> Result<u64, String> {
        let mut entry = [String::new(), String::new()];
        self.fields(end, &mut |reader, field, end| {
            if let Some(part) = entry.get_mut((field as usize).wrapping_sub(1)) {
                *part = reader.name(end)?;
            }
            Ok(())
        })?;
        let [key, value] = entry;
        if key == "location" && !found.files.contains(&value) {
            found.files.push(value);
            return Ok(0);
        }
        Ok(if key == "length" { value.parse().unwrap_or(0) } else { 0 })
    }

    /// ValueInfoProto: name = 1, type = 2. TypeProto: tensor_type = 1.
    fn value(&mut self, end: u64) -> Result<Value, String> {
        let mut value = Value { name: String::new(), element_type: None, shape: vec![] };
        self.fields(end, &mut |reader, field, end| match field {
            1 => {
                value.name = reader.name(end)?;
                Ok(())
            }
            2 => reader.fields(end, &mut |reader, field, end| match field {
                1 => reader.tensor_type(end, &mut value),
                _ => Ok(()),
            }),
            _ => Ok(()),
        })?;
        Ok(value)
    }

    /// TypeProto.Tensor: elem_type = 1, a varint; shape = 2. TensorShapeProto: dim = 1.
    fn tensor_type(&mut self, end: u64, value: &mut Value) -> Result<(), String> {
        while self.position < end {
            let (field, wire) = self.tag()?;
            if (field, wire) == (1, 0) {
                value.element_type = Some(ElementType(self.varint()?));
                continue;
            }
            let field_end = self.field_end(wire, end)?;
            if (field, wire) == (2, 2) {
                self.fields(field_end, &mut |reader, field, end| {
                    if field == 1 {
                        value.shape.push(reader.dimension(end)?);
                    }
                    Ok(())
                })?;
            }
            self.seek(field_end)?;
        }
        Ok(())
    }

    /// TensorShapeProto.Dimension: dim_value = 1, a varint; another field is a name for what is not known.
    fn dimension(&mut self, end: u64) -> Result<Option<u64>, String> {
        let mut dimension = None;
        while self.position < end {
            let (field, wire) = self.tag()?;
            if (field, wire) == (1, 0) {
                // Some write -1 for what is not known.
                dimension = Some(self.varint()?).filter(|value| i64::try_from(*value).is_ok());
            } else {
                let field_end = self.field_end(wire, end)?;
                self.seek(field_end)?;
            }
        }
        Ok(dimension)
    }

    /// A string up to `end`; an empty one for a name that is too long.
    fn name(&mut self, end: u64) -> Result<String, String> {
        let length = end - self.position;
        if length > MAX_NAME {
            return Ok(String::new());
        }
        let mut name = vec![0; length as usize];
        self.read(&mut name)?;
        Ok(String::from_utf8_lossy(&name).into_owned())
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
            let distance =
                to.checked_sub(self.position).and_then(|distance| i64::try_from(distance).ok()).ok_or_else(
                    || format!("a number before byte {} is longer than what holds it", self.position),
                )?;
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
            assert_eq!(OnnxFile::read(&file).unwrap().precision.weights_inside, expected, "{graph:?}");
        }
    }
}
