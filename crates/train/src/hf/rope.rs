//! Rotary positions in a `config.json`: a base, how the angles are stretched, and which share of a head turns. Newer folders keep all of
//! it in `rope_parameters`; where `rope_scaling` is there too, that holds, as in transformers 5.

use models::decoder::{DecoderConfig, RopeScaling};
use serde_json::{Value, json};

use super::{keys::Keys, layouts::short, refuse};
use crate::TrainError;

/// What a class takes where a key is absent.
#[derive(Clone, Copy)]
pub(super) struct Defaults {
    pub theta: f64,
    /// Share of a head that turns; none: the class turns whole heads and reads no such key.
    pub share: Option<f64>,
    /// Older names of these two at the top of the file.
    pub theta_key: &'static str,
    pub share_key: &'static str,
    /// `rope_parameters` has a table for each kind of layer, which the class reads itself.
    pub is_nested: bool,
}

pub(super) const USUAL: Defaults =
    Defaults { theta: 1e4, share: None, theta_key: "rope_theta", share_key: "partial_rotary_factor", is_nested: false };

/// The table that holds, where both are there.
pub(super) fn told<'a>(keys: &Keys<'a>, defaults: Defaults) -> Result<Option<Keys<'a>>, TrainError> {
    let parameters = if defaults.is_nested { None } else { keys.table("rope_parameters")? };
    Ok(keys.table_with_entries("rope_scaling")?.or(parameters))
}

/// Set base, stretching and turned share of `c`, whose context and `head_dim` are known.
pub(super) fn read(keys: &Keys<'_>, c: &mut DecoderConfig, defaults: Defaults) -> Result<(), TrainError> {
    let share_of = |keys: &Keys<'_>, key: &str, default: Option<f64>| match default {
        Some(share) => keys.real(key, share).map(Some),
        None => keys.only(key, 1.0).map(|()| None),
    };
    let (theta, share) = (keys.real(defaults.theta_key, defaults.theta)?, share_of(keys, defaults.share_key, defaults.share)?);
    let Some(rope) = told(keys, defaults)? else { return set(c, theta, share, None) };
    let theta = rope.real("rope_theta", theta)?;
    let share = share_of(&rope, "partial_rotary_factor", share)?;
    let scaling = stretched(&rope, c.context)?;
    rope.finish()?;
    set(c, theta, share, scaling)
}

fn set(c: &mut DecoderConfig, theta: f64, share: Option<f64>, scaling: Option<RopeScaling>) -> Result<(), TrainError> {
    let share = share.unwrap_or(1.0);
    let turned = (c.head_dim as f64 * share) as usize;
    if turned < 2 || share > 1.0 {
        return Err(refuse(
            "config.json",
            format!("`partial_rotary_factor` is {share}: of {} numbers of a head it turns {turned}", c.head_dim),
        ));
    }
    c.theta = theta as f32;
    c.rope_scaling = scaling;
    c.rope_dim = (turned != c.head_dim).then_some(turned);
    Ok(())
}

/// How angles are stretched, by the table of rotary positions.
pub(super) fn stretched(rope: &Keys<'_>, context: usize) -> Result<Option<RopeScaling>, TrainError> {
    let need = |key: &str| {
        let missing = || refuse("config.json", format!("`{key}` of the rotary positions is missing"));
        rope.number(key)?.ok_or_else(missing)
    };
    let older = rope.text("type", "default")?;
    Ok(match rope.text("rope_type", older)? {
        "default" => None,
        // Dynamic positions are stretched only beyond the context that the model is read for here.
        "dynamic" => {
            rope.harmless(&["factor", "original_max_position_embeddings"]);
            None
        }
        "linear" => Some(RopeScaling::Linear { factor: need("factor")? }),
        "llama3" => Some(RopeScaling::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original_context: rope.real("original_max_position_embeddings", context as f64)?,
        }),
        "yarn" => {
            rope.only("truncate", true)?;
            let original_context = rope.real("original_max_position_embeddings", context as f64)?;
            let factor = rope.real("factor", context as f64 / original_context)?;
            let [mscale, all] = [rope.real("mscale", 0.0)?, rope.real("mscale_all_dim", 0.0)?];
            let usual =
                if mscale != 0.0 && all != 0.0 { mscale_of(factor, mscale) / mscale_of(factor, all) } else { mscale_of(factor, 1.0) };
            let or = |key: &str, default: f64| Ok::<f64, TrainError>(rope.number(key)?.filter(|value| *value != 0.0).unwrap_or(default));
            Some(RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast: or("beta_fast", 32.0)?,
                beta_slow: or("beta_slow", 1.0)?,
                attention_factor: rope.real("attention_factor", usual)?,
            })
        }
        other => {
            return Err(refuse("config.json", format!("`rope_type` is `{other}`, not `default`, `linear`, `llama3`, `yarn` or `dynamic`")));
        }
    })
}

/// By how much attention is sharpened over a context that is `factor` times longer; arXiv:2309.00071, eq. 22.
pub(super) fn mscale_of(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// The keys that [`read`] takes, as older programs know them too.
pub(super) fn write(c: &DecoderConfig, json: &mut Value, defaults: Defaults) {
    json[defaults.theta_key] = short(c.theta);
    if defaults.share.is_some() {
        json[defaults.share_key] = json!(c.rope_dim.unwrap_or(c.head_dim) as f64 / c.head_dim as f64);
    }
    if let Some(scaling) = c.rope_scaling {
        json["rope_scaling"] = table(scaling);
    }
}

/// The table that says how angles are stretched.
pub(super) fn table(scaling: RopeScaling) -> Value {
    match scaling {
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor, "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_context as u64,
        }),
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor } => json!({
            "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original_context as u64,
            "beta_fast": beta_fast, "beta_slow": beta_slow, "attention_factor": attention_factor,
        }),
    }
}
