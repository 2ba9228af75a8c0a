//! What a model is fed and what it gives, by the names in its ONNX file.

use crate::onnx::{ElementType, OnnxFile, Value};

/// What the model is fed: int64, row-major `[texts, tokens]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    Ids,
    Mask,
    TypeIds,
    PositionIds,
}

impl Input {
    fn named(name: &str) -> Option<Input> {
        Some(match name {
            "input_ids" => Input::Ids,
            "attention_mask" => Input::Mask,
            "token_type_ids" => Input::TypeIds,
            "position_ids" => Input::PositionIds,
            _ => return None,
        })
    }
}

/// The type of an output's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {
    Float32,
    Float16,
}

#[derive(Debug, Clone)]
pub struct Interface {
    /// Names, and what is fed to them.
    pub inputs: Vec<(String, Input)>,
    /// The name of the output that holds one vector a token, or else one a text.
    pub output: String,
    pub output_type: Float,
}

/// What encoders call the output that holds their vectors.
const VECTORS: [&str; 3] = ["last_hidden_state", "token_embeddings", "sentence_embedding"];

/// What classifiers call their output, and so cross-encoders, whose one class is relevance.
const LOGITS: &str = "logits";

/// Whether a model gives a score for a pair of texts, and no vectors.
pub fn is_cross_encoder(file: &OnnxFile) -> bool {
    let has = |name: &str| file.outputs.iter().any(|output| output.name == name);
    has(LOGITS) && !VECTORS.into_iter().any(has)
}

impl Interface {
    /// Errors: why this is no model that gives as many `dimensions` numbers for a text.
    pub fn of(file: &OnnxFile, dimensions: usize) -> Result<Interface, String> {
        let inputs = file.inputs.iter().map(input).collect::<Result<Vec<_>, _>>()?;
        // Without a mask a text's vector would depend on the padding, so on its company.
        for (needed, input) in [("input_ids", Input::Ids), ("attention_mask", Input::Mask)] {
            if !inputs.iter().any(|(_, known)| *known == input) {
                return Err(format!("the model has no input \"{needed}\""));
            }
        }
        let (output, output_type) = output(&file.outputs, dimensions)?;
        Ok(Interface { inputs, output, output_type })
    }
}

fn input(value: &Value) -> Result<(String, Input), String> {
    let name = &value.name;
    let input = Input::named(name).ok_or_else(|| format!("input \"{name}\" is not supported"))?;
    if value.element_type != Some(ElementType::INT64) {
        return Err(format!("input \"{name}\" is not an int64 tensor"));
    }
    Ok((name.clone(), input))
}

fn output(outputs: &[Value], dimensions: usize) -> Result<(String, Float), String> {
    let chosen = VECTORS
        .into_iter()
        .chain([LOGITS])
        .find_map(|name| outputs.iter().find(|output| output.name == name))
        .or(outputs.first())
        .ok_or("the model has no output")?;
    let Value { name, element_type, shape } = chosen;
    let float = match element_type {
        Some(ElementType::FLOAT32) => Float::Float32,
        Some(ElementType::FLOAT16) => Float::Float16,
        _ => return Err(format!("output \"{name}\" is not a float32 or float16 tensor")),
    };
    let last = shape.last().copied().flatten();
    // A file need not tell a shape: it is looked at again when the model has run.
    if !matches!(shape.len(), 0 | 2 | 3) || last.is_some_and(|last| last != dimensions as u64) {
        let shape: Vec<String> = shape.iter().map(|n| n.map_or("?".to_string(), |n| n.to_string())).collect();
        let expected = match name.as_str() {
            LOGITS => "a cross-encoder has one score for a pair".to_string(),
            _ => format!("config.json promises {dimensions} dimensions"),
        };
        return Err(format!("output \"{name}\" has shape [{}], but {expected}", shape.join(", ")));
    }
    Ok((name.clone(), float))
}
