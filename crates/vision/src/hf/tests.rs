//! Folders of each layout out and in, and what is refused of them.

use parallel::Replicated;
use train::{recipe::Recipe, run::Loaded};

use super::*;

const TOWER: &str = "size = 8\npatch = 4\nlayers = 1\nwidth = 8\nheads = 2\nffn = 12\neps = 1e-6";

fn loaded(model: &str) -> Loaded {
    crate::register();
    let recipe = Recipe::parse(&format!("[model]\n{model}\n"), "test", &[]).unwrap();
    let model = models::build(&recipe.model).unwrap();
    let store = Replicated::solo(model.params(), |id| model.params().initial(id, 3));
    let objective = train::objective::of(&recipe);
    let tokenizer_path = "nowhere".into();
    Loaded { recipe, model, objective, store, precision: engine::Precision::F32, step: 0, tokenizer_path, passed_over: Vec::new() }
}

fn all() -> [String; 7] {
    [
        format!("kind = \"vit\"\nclasses = 3\n[model.tower]\n{TOWER}\nmlp = \"gelu\"\nnorm_first = false"),
        format!(
            "kind = \"vit_mae\"\ndecoder_layers = 1\ndecoder_width = 4\ndecoder_heads = 2\nmask_ratio = 0.75\n[model.tower]\n{}\nmlp = \"gelu\"\nnorm_first = false",
            TOWER.replace("patch = 4", "patch = 2")
        ),
        format!(
            "kind = \"clip\"\nembed = 6\n[model.image]\n{TOWER}\nmlp = \"quick_gelu\"\nnorm_first = true\n[model.text]\nvocab = 300\ntokens = 6\nlayers = 1\nwidth = 8\nheads = 2\nffn = 12\nmlp = \"quick_gelu\""
        ),
        format!(
            "kind = \"clip\"\nembed = 8\nsigmoid = true\n[model.image]\n{TOWER}\nmlp = \"gelu_tanh\"\nnorm_first = false\nattention_pool = true\n[model.text]\nvocab = 300\ntokens = 6\nlayers = 1\nwidth = 12\nheads = 2\nffn = 12\nmlp = \"gelu_tanh\"\neps = 1e-6\nboth_ways = true"
        ),
        "kind = \"dit\"\nsize = 4\npatch = 2\nchannels = 2\nout_channels = 4\nlayers = 2\nwidth = 8\nheads = 2\nclasses = 4\nwaves = 256\nwave_shift = 1\nmlp_eps = 1e-5".into(),
        "kind = \"unet\"\nsize = 4\nchannels = 3\nout_channels = 3\nwidth = 8\nfactors = [1, 2]\nres_blocks = 1\nattention = [true, false]\ndepth = 1\nheads = 2\ntext_width = 6\ntext_tokens = 77\ngroups = 4".into(),
        "kind = \"autoencoder\"\nsize = 8\nchannels = 2\nwidth = 4\nfactors = [1, 2]\nres_blocks = 1\ngroups = 2\nkl_weight = 1e-6\nscale = 0.5\nshift = 0.25".into(),
    ]
}

#[test]
fn what_goes_out_comes_back_the_same() {
    for model in all() {
        let (loaded, folder) = (loaded(&model), tempfile::tempdir().unwrap());
        let names = ["cat", "dog", "owl"].map(str::to_owned);
        export(&loaded, &names, folder.path(), Format::default()).unwrap();
        assert!(knows(folder.path()));
        let back = import(folder.path()).unwrap();
        assert_eq!(back.model, loaded.model.config());
        assert_eq!(back.classes, if model.contains("\"vit\"") { names.to_vec() } else { Vec::new() });
        for id in loaded.model.params().ids() {
            let name = &loaded.model.params().spec(id).name;
            assert_eq!(back.values(name).unwrap(), loaded.store.value(id), "{name}");
        }
    }
}

#[test]
fn what_is_unknown_is_refused_by_name() {
    let (loaded, folder) = (loaded(&all()[0]), tempfile::tempdir().unwrap());
    export(&loaded, &[], folder.path(), Format::default()).unwrap();
    let path = folder.path().join("config.json");
    let config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for (key, value, want) in [
        ("use_relative_position", json!(true), "`use_relative_position` is set to true"),
        ("hidden_act", json!("relu"), "`hidden_act` is `relu`"),
        ("qkv_bias", json!(false), "`qkv_bias` is false"),
        ("num_channels", json!(1), "`num_channels` is 1"),
        ("hidden_size", json!("eight"), "`hidden_size` is \"eight\""),
        ("hidden_size", json!(16), "config.json wants"),
        ("num_hidden_layers", json!(0), "layers"),
        ("num_hidden_layers", json!(2), "is missing"),
        ("model_type", json!("swin"), "`model_type` is `swin`"),
    ] {
        let mut other = config.clone();
        other[key] = value;
        std::fs::write(&path, other.to_string()).unwrap();
        let error = import(folder.path()).err().unwrap_or_else(|| panic!("{key}")).to_string();
        assert!(error.contains(want), "{key}: {error}");
    }
    std::fs::write(&path, "{").unwrap();
    assert!(import(folder.path()).is_err() && !knows(folder.path()));
    std::fs::write(&path, config.to_string()).unwrap();
    let weights = folder.path().join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    assert!(import(folder.path()).is_err());
}
