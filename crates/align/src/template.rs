//! Conversations as the text that a model was trained on: a chat template in Jinja, as `tokenizer_config.json` carries it.

use minijinja::{Environment, Error, ErrorKind, Value, context, syntax::SyntaxConfig};
use serde::{Deserialize, Serialize};

use crate::AlignError;

/// A turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

/// The text of `messages` by `template`, with the beginning of the assistant's turn after them. `begin` and `end` are the texts of the
/// special tokens that templates call `bos_token` and `eos_token`.
/// # Errors
/// When the template cannot be read, or raises an exception.
pub fn render(template: &str, messages: &[Message], begin: &str, end: &str) -> Result<String, AlignError> {
    let mut environment = Environment::new();
    // Templates are written for Python's Jinja, with these options.
    let wrong = |e: Error| AlignError::Template { problem: e.to_string() };
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(wrong)?);
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    // Text from elsewhere runs in bounded time.
    environment.set_fuel(Some(1_000_000));
    let messages: Vec<Value> = messages.iter().map(|m| context! { role => m.role.as_str(), content => m.content.as_str() }).collect();
    let context = context! { messages, bos_token => begin, eos_token => end, add_generation_prompt => true };
    environment.render_str(template, context).map_err(wrong)
}

/// Messages as plain text, where there is no template: one alone is itself, several stand one after the other with who speaks.
#[must_use]
pub fn plain(messages: &[Message]) -> String {
    match messages {
        [one] => one.content.clone(),
        all => all.iter().map(|m| format!("{}: {}\n", m.role, m.content)).collect::<String>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_renders_as_it_does_in_python() {
        let template = "{{ bos_token }}{% for m in messages %}\n    {% if m.role not in ['user', 'assistant'] %}\n        {{ raise_exception('unknown role') }}\n    {% endif %}\n<|{{ m.role }}|>{{ m['content'].strip() }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
        let say = |role: &str| vec![Message { role: role.into(), content: " hi ".into() }];
        assert_eq!(render(template, &say("user"), "<s>", "</s>").unwrap(), "<s><|user|>hi</s><|assistant|>");
        let error = render(template, &say("tool"), "", "").unwrap_err().to_string();
        assert!(error.contains("unknown role"), "{error}");
        assert!(
            render("{% for i in range(10000) %}{% for j in range(10000) %}x{% endfor %}{% endfor %}", &[], "", "").is_err(),
            "without end"
        );
    }
}
