//! Supervised fine-tuning: the next token of demonstrated responses, prompts read and not learnt.
//!
//! Demonstrations are JSON lines with a `prompt` and a `completion` (or `response`, `output`, `answer`), conversations as `messages`, or
//! preferences, of which the best response is taken.

use std::{path::PathBuf, sync::Arc};

use engine::Inputs;
use serde::Deserialize;
use serde_json::Value;
use train::{
    TrainError,
    feed::Feed,
    objective::{Kind, OfModel},
    recipe::Recipe,
};

use super::samples::{Batch, Sample, Samples};
use crate::{
    preferences,
    rows::{self, Encoder, Row},
    template::{self, Chat},
};

pub(super) const KIND: Kind = Kind {
    name: "sft",
    build: |recipe| {
        super::options::<Options>(recipe)?;
        Ok(Arc::new(OfModel))
    },
    feed,
};

/// The table `[objective]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// A file of JSON lines.
    demonstrations: PathBuf,
    #[serde(default = "tenth")]
    held_out_ratio: f64,
}

pub(super) fn tenth() -> f64 {
    0.1
}

struct Demonstrated {
    context: usize,
}

impl Batch for Demonstrated {
    fn inputs(&self, samples: &[&Sample], padding: u32) -> Result<Inputs, TrainError> {
        let all: Vec<Row> = samples.iter().map(|sample| sample.rows[0].clone()).collect();
        Ok(rows::inputs(&all.iter().collect::<Vec<_>>(), rows::width(&all, self.context), padding))
    }

    fn weight(&self, sample: &Sample) -> u64 {
        sample.rows[0].response().len() as u64
    }

    fn held_out_weight(&self, sample: &Sample) -> u64 {
        sample.bytes.max(1)
    }
}

fn feed(recipe: &Recipe) -> Result<Arc<dyn Feed>, TrainError> {
    let options: Options = super::options(recipe)?;
    let encoder = Encoder::new(&super::tokenizer(recipe)?, recipe.batch.context)?;
    let (path, chat) = (&options.demonstrations, Chat::of(&encoder.tokenizer));
    let (mut samples, mut left_out, mut reason) = (Vec::new(), 0, String::new());
    preferences::lines(path, |number, line| {
        let value = line.and_then(|line| serde_json::from_str::<Value>(line).map_err(|e| format!("it is no JSON: {e}")));
        if let Ok(value) = &value {
            chat.check(path, &format!("line {number}"), value)?;
        }
        let made = value.and_then(|value| demonstration(&value, &chat)).and_then(|(prompt, response)| {
            let row = encoder.row(&prompt, &response).map_err(|e| e.to_string())?;
            Ok((prompt, response, row.ok_or("its prompt is as long as the context")?))
        });
        match made {
            Ok((prompt, response, row)) => {
                let name = format!("{}:{number}", path.display());
                samples.push((prompt, Sample { name, rows: vec![row], ranks: Vec::new(), confidence: 1.0, bytes: response.len() as u64 }));
            }
            Err(problem) => {
                left_out += 1;
                if reason.is_empty() {
                    reason = format!("line {number}: {problem}");
                }
            }
        }
        Ok(())
    })?;
    let notes = if left_out > 0 { vec![format!("`{}`: {left_out} lines are left out; {reason}", path.display())] } else { Vec::new() };
    let batch = Demonstrated { context: recipe.batch.context };
    Ok(Arc::new(Samples::new(recipe, path, encoder, samples, options.held_out_ratio, batch, notes)?))
}

/// Prompt and response of one record.
fn demonstration(value: &Value, chat: &Chat) -> Result<(String, String), String> {
    // TRL's two layouts of conversations: whole, or with the answer by itself.
    let whole = match (value["prompt"].is_array() && value["completion"].is_array(), value["messages"].is_array()) {
        (true, _) => Some([template::messages(value, "prompt")?, template::messages(value, "completion")?].concat()),
        (_, true) => Some(template::messages(value, "messages")?),
        _ => None,
    };
    if let Some(messages) = whole {
        let Some((last, before)) = messages.split_last().filter(|(last, _)| last.role == "assistant") else {
            return Err("its last message is not the assistant's".into());
        };
        return Ok((chat.prompt(before)?, last.content.clone()));
    }
    let text = |keys: &[&str]| keys.iter().find_map(|key| value[*key].as_str()).map(str::to_owned);
    if let (Some(prompt), Some(response)) =
        (text(&["prompt", "instruction", "question"]), text(&["completion", "response", "output", "answer"]))
    {
        return Ok((prompt, response));
    }
    let preference = preferences::of_value(value, chat)?;
    let best = (0..preference.ranks.len()).min_by_key(|i| preference.ranks[*i]).unwrap_or(0);
    Ok((preference.prompt, preference.responses[best].clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demonstrations_come_in_several_layouts() {
        let chat = template::of_template("{% for m in messages %}{{ m.content }}{% endfor %}");
        for text in [
            r#"{"prompt":"p","completion":"r"}"#,
            r#"{"prompt":[{"role":"user","content":"p"}],"completion":[{"role":"assistant","content":"r"}]}"#,
            r#"{"instruction":"p","output":"r"}"#,
            r#"{"messages":[{"role":"user","content":"p"},{"role":"assistant","content":"r"}]}"#,
            r#"{"prompt":"p","responses":["x","r"],"ranks":[1,0]}"#,
        ] {
            assert_eq!(demonstration(&serde_json::from_str(text).unwrap(), &chat), Ok(("p".into(), "r".into())), "{text}");
        }
        let asked = r#"{"messages":[{"role":"assistant","content":"r"},{"role":"user","content":"p"}]}"#;
        assert!(demonstration(&serde_json::from_str(asked).unwrap(), &chat).unwrap_err().contains("not the assistant's"));
    }
}
