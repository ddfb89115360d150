//! A recipe completed by its data and the machine.

use engine::Precision;
use models::Model;

use crate::{
    TrainError, objective,
    recipe::{PrecisionChoice, Recipe},
};

/// Complete a recipe with what follows from the data (`vocab` tokens; without data the model's own number) and the
/// machine, so that it means the same elsewhere. A preset keeps its context; of images each is one sample.
/// # Errors
/// When the model cannot be.
pub fn resolve(recipe: &Recipe, vocab: Option<usize>) -> Result<(Recipe, Box<dyn Model>), TrainError> {
    let mut recipe = recipe.clone();
    if let Some(head) = objective::of(&recipe).head().and_then(|head| toml::Value::try_from(head).ok()) {
        recipe.model.entry("head").or_insert(head);
    }
    if models::unit(&recipe.model) == "tokens" {
        if let Some(vocab) = vocab {
            recipe.model.entry("vocab").or_insert_with(|| toml::Value::Integer(vocab as i64));
        }
        if !recipe.model.contains_key("preset") {
            let context = recipe.batch.context as i64;
            recipe.model.entry("context").or_insert_with(|| toml::Value::Integer(context));
        }
    } else {
        recipe.batch.context = 1;
    }
    let context = recipe.batch.context;
    let model = models::build(&recipe.model)?;
    let wrong = |key, problem: String, help: &str| TrainError::Value { key, problem, help: help.into() };
    if let Some(language) = model.language() {
        if let Some(vocab) = vocab.filter(|vocab| language.vocab() < *vocab) {
            let problem = format!("{} is less than the {vocab} tokens of the data", language.vocab());
            return Err(wrong("model.vocab", problem, "leave `model.vocab` out"));
        }
        if language.context() < context {
            let problem = format!("{context} is more than the model's {}", language.context());
            return Err(wrong("batch.context", problem, "lower `batch.context`, or leave `model.context` out"));
        }
    }
    recipe.model = model.config();
    recipe.train.precision = match recipe.train.precision.resolve() {
        Precision::F32 => PrecisionChoice::F32,
        Precision::Bf16 => PrecisionChoice::Bf16,
    };
    Ok((recipe, model))
}
