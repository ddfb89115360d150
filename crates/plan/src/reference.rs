//! The reference of recipes and projects: every key, its kind, its default and what it changes, from the types' own documentation.

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde::Serialize;
use serde_json::Value;
use train::recipe::Recipe;

use crate::ladder::project::Project;

/// One key of a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Key {
    /// `batch.sequences`; of a list's tables `phases[].name`.
    pub key: String,
    /// What is written there: `integer`, `number`, `string`, `true or false`, or the words that there are.
    pub kind: String,
    /// As TOML writes it; absent: none, or it follows from others.
    pub default: Option<String>,
    /// What it changes, with its unit and range.
    pub what: String,
}

/// Which file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    Recipe,
    Project,
}

impl File {
    /// Its JSON schema (draft 2020-12), which editors check files against.
    #[must_use]
    pub fn schema(self) -> Value {
        let generator: SchemaGenerator = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).into();
        let schema = match self {
            Self::Recipe => generator.into_root_schema_for::<Recipe>(),
            Self::Project => generator.into_root_schema_for::<Project>(),
        };
        schema.to_value()
    }

    /// All keys, in the order in which the types have them.
    #[must_use]
    pub fn keys(self) -> Vec<Key> {
        let mut keys = Vec::new();
        walk("", &self.schema(), &mut keys);
        keys
    }
}

/// Both files' keys as a page of Markdown.
#[must_use]
pub fn page() -> String {
    let mut page = "# Recipes and projects\n\nEvery key, made from the types by `UPDATE_DOCS=1 cargo test -p plan --test reference`; `hairpin recipe KEY` prints one, \
        `hairpin recipe --schema` a JSON schema for editors. A key without a default may be left out, or follows from others, unless it says \
        otherwise.\n"
        .to_owned();
    for (title, file) in [("A recipe", File::Recipe), ("A project, `hairpin.toml`", File::Project)] {
        page += &format!("\n## {title}\n| key | is | default | what |\n|---|---|---|---|\n");
        for key in file.keys() {
            let default = key.default.map_or(String::new(), |default| format!("`{default}`"));
            page += &format!("| `{}` | {} | {default} | {} |\n", key.key, key.kind, key.what);
        }
    }
    page
}

/// The keys of a table's schema, those of its tables after it.
fn walk(prefix: &str, schema: &Value, keys: &mut Vec<Key>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let key = format!("{prefix}{name}");
        let written = one_of(field);
        if written["properties"].is_object() {
            keys.push(Key { key: key.clone(), kind: "table".into(), default: None, what: text(field) });
            walk(&format!("{key}."), written, keys);
        } else if written["items"]["properties"].is_object() {
            keys.push(Key { key: key.clone(), kind: "list of tables".into(), default: None, what: text(field) });
            walk(&format!("{key}[]."), &written["items"], keys);
        } else if let Some(forms) = forms(written) {
            // A table of one of several kinds: its keys, kind by kind.
            keys.push(Key { key: key.clone(), kind: "table".into(), default: None, what: text(field) });
            let kind = |form: &Value| form["properties"]["kind"]["const"].as_str().unwrap_or("").to_owned();
            for form in forms {
                let own = format!("{key}.kind = \"{}\"", kind(form));
                keys.push(Key { key: own, kind: "kind".into(), default: None, what: text(form) });
                let mut inner = Vec::new();
                walk(&format!("{key}."), form, &mut inner);
                keys.extend(inner.into_iter().filter(|inner| inner.key != format!("{key}.kind")));
            }
        } else {
            keys.push(Key { key, kind: kind(written), default: default(field), what: text(field) });
        }
    }
}

/// What is written where a value may be left out.
fn one_of(schema: &Value) -> &Value {
    let some = schema["anyOf"].as_array().into_iter().flatten().find(|one| one["type"] != "null");
    some.unwrap_or(schema)
}

/// Of a table that is one of several kinds, all of them.
fn forms(schema: &Value) -> Option<&Vec<Value>> {
    schema["oneOf"].as_array().filter(|forms| forms.iter().all(|form| form["properties"]["kind"].is_object()))
}

fn kind(schema: &Value) -> String {
    let words = |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>().join(", ");
    let quoted = |value: &Value| format!("`{}`", value.as_str().map_or_else(|| value.to_string(), |text| format!("\"{text}\"")));
    if let Some(choices) = schema["oneOf"].as_array() {
        // Several plain words may stand in one choice, with nothing to say of each.
        let of = |choice: &Value| match choice["enum"].as_array() {
            Some(all) => words(&mut all.iter().map(quoted)),
            None => {
                let what = text(choice);
                quoted(&choice["const"]) + &if what.is_empty() { String::new() } else { format!(" ({})", what.trim_end_matches('.')) }
            }
        };
        return words(&mut choices.iter().map(of));
    }
    if let Some(all) = schema["enum"].as_array() {
        return words(&mut all.iter().filter(|value| !value.is_null()).map(quoted));
    }
    let of_type = |name: &str| match name {
        "boolean" => "true or false".to_owned(),
        "array" => format!("list of {}", kind(&schema["items"])),
        "object" => "table".to_owned(),
        name => name.to_owned(),
    };
    match &schema["type"] {
        Value::String(name) => of_type(name),
        // Absent or this.
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null").map_or_else(String::new, of_type),
        _ => String::new(),
    }
}

fn default(schema: &Value) -> Option<String> {
    let default = schema.get("default").filter(|default| !default.is_null())?;
    Some(match default {
        // f32 constants, as they are written.
        Value::Number(number) if number.is_f64() => number.as_f64().map_or_else(String::new, |value| format!("{:?}", value as f32)),
        other => other.to_string(),
    })
}

/// Its documentation on one line.
fn text(schema: &Value) -> String {
    let text = schema["description"].as_str().or(one_of(schema)["description"].as_str()).unwrap_or("");
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|").replace("[`", "`").replace("`]", "`")
}
