//! What a recipe's `[model]` table may hold, as a JSON schema made from the types.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::decoder::{DecoderConfig, PRESETS};

/// The options of a decoder; those of models of images are told by the errors of their kinds.
#[must_use]
pub fn options(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = DecoderConfig::json_schema(generator);
    // In a recipe every one of them may be left out, and another kind has other keys.
    for key in ["required", "additionalProperties"] {
        schema.remove(key);
    }
    let description = "The model: of kind `decoder` one dial, `depth` or `preset`, and whatever is to differ from what follows from it.";
    schema.insert("description".into(), description.into());
    let dials = [
        (
            "kind",
            serde_json::json!({"type": "string", "default": "decoder", "enum": crate::KINDS.names(),
            "description": "What it is. The keys below are a decoder's."}),
        ),
        (
            "preset",
            serde_json::json!({"type": "string", "examples": PRESETS, "description": "A published decoder's name: `hairpin plan list presets` has all."}),
        ),
        (
            "depth",
            serde_json::json!({"type": "integer", "minimum": 1, "maximum": 128,
            "description": "The dial of small ladders: so many layers, from which all else follows."}),
        ),
    ];
    if let Some(properties) = schema.get_mut("properties").and_then(|properties| properties.as_object_mut()) {
        let own = std::mem::take(properties);
        properties.extend(dials.map(|(name, schema)| (name.to_owned(), schema)));
        properties.extend(own);
    }
    schema
}
