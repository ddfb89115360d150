//! A decoder as a folder of the first layout that holds it.

use std::{borrow::Cow, path::Path};

use data::Tokenizer;
use models::decoder::{DecoderConfig, Norm};
use serde_json::json;

use super::{
    layouts::Layout,
    parts::Part,
    refuse, turned,
    write::{Array, Format, STEMS, write_folder, write_json, write_weights},
};
use crate::{TrainError, run::Loaded};

/// Write `loaded` to `folder`, which comes whole or not at all where nothing stands yet; of one that does, files that are no weights stay.
/// # Errors
/// When no layout holds such a model, naming what stands in the way, or a file cannot be written.
pub fn export(loaded: &Loaded, tokenizer: &Tokenizer, folder: &Path, format: Format) -> Result<(), TrainError> {
    let config = loaded.model.language().and_then(|l| l.decoder()).ok_or(TrainError::NotLanguage)?;
    if !config.head.has_tokens() {
        return Err(refuse("model.head", "a model that ends in one number has no Hugging Face layout here: export the policy".into()));
    }
    // A norm of the embedding is the same for a token wherever it stands: it goes into the table, where nothing else reads that.
    let is_folded = config.embed_norm && !config.tied && config.norm == Norm::RmsNorm && config.embed_scale.is_none();
    let config = &DecoderConfig { embed_norm: config.embed_norm && !is_folded, ..config.clone() };
    let layout = Layout::of(config)?;
    let array = |part: Part| Array {
        name: part.theirs.clone(),
        dims: part.their_dims(),
        values: Box::new(move || Cow::Owned(values(&part, loaded, is_folded.then_some(config.eps)))),
    };
    let arrays: Vec<Array<'_>> = (layout.parts)(config).into_iter().map(array).collect();
    write_folder(folder, |folder| {
        write_weights(&arrays, folder, STEMS[0], format)?;
        write_texts(layout, config, tokenizer, folder, format)
    })
}

/// The numbers of a part; `folded` is what the norm of the embedding that goes into its table adds to the variance.
fn values(part: &Part, loaded: &Loaded, folded: Option<f32>) -> Vec<f32> {
    let cols = part.cols();
    let mut all = Vec::with_capacity(part.rows() * cols);
    for piece in &part.pieces {
        let rows = piece.rows.start * cols..piece.rows.end * cols;
        all.extend_from_slice(array(&piece.ours, loaded, folded).get(rows).unwrap_or_default());
    }
    if part.offset != 0.0 {
        all.iter_mut().for_each(|value| *value -= part.offset);
    }
    if part.is_turned { turned(&all, part.rows(), cols) } else { all }
}

fn array<'a>(name: &str, loaded: &'a Loaded, folded: Option<f32>) -> Cow<'a, [f32]> {
    let table = loaded.model.params();
    let plain = |name: &str| table.find(name).map_or(&[][..], |id| loaded.store.value(id));
    let (values, weight) = (plain(name), plain("embed.norm.weight"));
    let Some(eps) = folded.filter(|_| name == "embed.weight") else { return Cow::Borrowed(values) };
    let (mut normed, mut inv_rms) = (values.to_vec(), vec![0.0; values.len() / weight.len()]);
    kernels::norm::rms_norm(values, weight, eps, &mut normed, &mut inv_rms);
    Cow::Owned(normed)
}

/// The configuration, the tokenizer, and what begins and ends a text.
fn write_texts(layout: &Layout, config: &DecoderConfig, tokenizer: &Tokenizer, folder: &Path, format: Format) -> Result<(), TrainError> {
    let (tokens, has_begin) = tokenizer.for_others()?;
    let path = folder.join("tokenizer.json");
    disk::write(&path, tokens).map_err(TrainError::io("write", &path))?;
    let ends = tokenizer.ends();
    let begin = ends.before_prompt.first().filter(|_| has_begin).copied();
    let stops = if let [stop] = ends.stops[..] { json!(stop) } else { json!(ends.stops) };
    let mut model = layout.config(config);
    (model["bos_token_id"], model["eos_token_id"]) = (json!(begin), stops.clone());
    format.tell(&mut model);
    write_json(folder, "config.json", &model)?;
    write_json(folder, "generation_config.json", &json!({"_from_model_config": true, "bos_token_id": begin, "eos_token_id": stops}))?;
    let mut own = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config.context, "clean_up_tokenization_spaces": false,
        "eos_token": tokenizer.name(ends.end_of_text), "bos_token": begin.and_then(|id| tokenizer.name(id)),
        "add_bos_token": begin.is_some(), "add_eos_token": false,
    });
    for (key, value) in tokenizer.kept() {
        own[key] = value.clone();
    }
    write_json(folder, "tokenizer_config.json", &own)?;
    if let Some(template) = tokenizer.chat_template() {
        let path = folder.join("chat_template.jinja");
        disk::write(&path, template).map_err(TrainError::io("write", &path))?;
    }
    Ok(())
}
