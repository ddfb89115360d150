//! Rows of tokens under another tokenizer: each goes to the token of the same name, and the end of a text to the end of a text.

use std::collections::HashMap;

use data::Tokenizer;
use models::Model;

use crate::checkpoint::Snapshot;

/// Arrays that have a row for each token.
const OF_TOKENS: [&str; 2] = ["embed.weight", "head.weight"];

/// Put the rows of `snapshot`, which learnt with `theirs`, into the order of `ours`; rows of tokens without a counterpart are those that `model`
/// begins with. Optimiser states are left out. Tells how many.
pub(super) fn by_name(snapshot: &mut Snapshot, theirs: &Tokenizer, ours: &Tokenizer, model: &dyn Model, seed: u64) -> String {
    let places: HashMap<String, u32> = (0..theirs.vocab() as u32).filter_map(|id| Some((theirs.name(id)?, id))).collect();
    let place = |id: u32| {
        let named = || places.get(&ours.name(id)?).copied();
        if id == ours.end_of_text() { Some(theirs.end_of_text()) } else { named() }
    };
    let places: Vec<Option<u32>> = (0..ours.vocab() as u32).map(place).collect();
    snapshot.tensors.retain(|tensor| !tensor.name.starts_with(crate::optim::STATE));
    let table = model.params();
    for tensor in snapshot.tensors.iter_mut().filter(|tensor| OF_TOKENS.contains(&tensor.name.as_str())) {
        let Some(id) = table.find(&tensor.name) else { continue };
        let dims = table.spec(id).shape.dims().to_vec();
        let width = tensor.shape.last().copied().unwrap_or(1);
        if dims.last() != Some(&width) {
            continue;
        }
        let mut values = table.initial(id, seed);
        for (row, place) in values.chunks_exact_mut(width).zip(&places) {
            if let Some(from) = place.and_then(|place| tensor.values.get(place as usize * width..(place as usize + 1) * width)) {
                row.copy_from_slice(from);
            }
        }
        (tensor.values, tensor.shape) = (values, dims);
    }
    let kept = places.iter().flatten().count();
    format!(
        "another tokenizer: {kept} of {} tokens have the rows of the tokens of the same name, {} begin anew, {} of the weights' are left out",
        places.len(),
        places.len() - kept,
        theirs.vocab().saturating_sub(kept)
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::checkpoint::NamedTensor;

    fn tokenizer(names: &[&str], end: &str) -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let vocab: serde_json::Map<String, Value> = names.iter().enumerate().map(|(id, name)| ((*name).to_owned(), id.into())).collect();
        let end = json!({"id": vocab[end], "content": end, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
        let all = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "decoder": null, "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}});
        std::fs::write(folder.path().join("tokenizer.json"), all.to_string()).unwrap();
        Tokenizer::load(&folder.path().join("tokenizer.json")).unwrap()
    }

    #[test]
    fn rows_follow_the_names_of_tokens() {
        let (theirs, ours) = (tokenizer(&["a", "b", "c", "</s>"], "</s>"), tokenizer(&["<eos>", "c", "d", "a", "e"], "<eos>"));
        let table: toml::Table = "layers = 1\nmodel = 4\nheads = 2\nvocab = 5\ncontext = 8\nzero_init = false".parse().unwrap();
        let model = models::build(&table).unwrap();
        let rows = |count: usize| (0..count * 4).map(|i| (i / 4 + 1) as f32).collect::<Vec<f32>>();
        let tensor = |name: &str| NamedTensor { name: name.into(), shape: vec![4, 4], values: rows(4) };
        let mut snapshot = Snapshot {
            step: 3,
            recipe: String::new(),
            held_out: None,
            state: json!({}),
            data: None,
            tokenizer: Arc::new(Vec::new()),
            kernels: Vec::new(),
            tensors: vec![tensor("embed.weight"), tensor("head.weight"), tensor("optim/m/embed.weight")],
        };
        let note = by_name(&mut snapshot, &theirs, &ours, &*model, 1);
        assert!(note.contains("3 of 5 tokens") && note.contains("2 begin anew") && note.contains("1 of the weights'"), "{note}");
        assert_eq!(snapshot.tensors.len(), 2, "moments of other rows say nothing");
        for tensor in &snapshot.tensors {
            let initial = model.params().initial(model.params().find(&tensor.name).unwrap(), 1);
            let row = |at: usize| &tensor.values[at * 4..(at + 1) * 4];
            assert_eq!((row(0), row(1), row(3)), (&[4.0; 4][..], &[3.0; 4][..], &[1.0; 4][..]));
            assert_eq!((row(2), row(4)), (&initial[8..12], &initial[16..20]));
        }
    }
}
