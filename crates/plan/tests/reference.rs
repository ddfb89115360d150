//! The reference says all, and docs/recipe.md is what it says.

use plan::reference::{File, page};

#[test]
fn every_key_says_what_it_changes() {
    for file in [File::Recipe, File::Project] {
        let keys = file.keys();
        let silent: Vec<&str> = keys.iter().filter(|key| key.what.is_empty() || key.kind.is_empty()).map(|key| key.key.as_str()).collect();
        assert!(silent.is_empty(), "{silent:?}");
    }
    let recipe = File::Recipe.keys();
    let find = |name: &str| recipe.iter().find(|key| key.key == name).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(find("batch.sequences").default.as_deref(), Some("16"));
    assert_eq!(find("optim.lr").default.as_deref(), Some("0.003"));
    assert!(find("guard.action").kind.contains("`\"skip\"` (Leave the update out)"), "{}", find("guard.action").kind);
    assert!(find("model.depth").what.contains("dial") && find("model.kv_heads").kind == "integer");
    let project = File::Project.keys();
    assert!(
        ["data.corpus.text_column", "data.tokenizer.end_of_text", "phases[].data_fraction"]
            .iter()
            .all(|name| project.iter().any(|key| key.key == *name))
    );
}

#[test]
fn every_key_of_a_written_recipe_is_in_it() {
    let recipe = train::recipe::Recipe::parse("[model]\ndepth = 2\n", "test", &[]).unwrap();
    let known: Vec<String> = File::Recipe.keys().into_iter().map(|key| key.key).collect();
    fn check(prefix: &str, table: &toml::Table, known: &[String]) {
        for (key, value) in table {
            let key = format!("{prefix}{key}");
            assert!(known.contains(&key), "{key}");
            if let Some(table) = value.as_table() {
                check(&format!("{key}."), table, known);
            }
        }
    }
    check("", &recipe.to_toml().parse().unwrap(), &known);
}

#[test]
fn the_page_in_docs_is_the_references() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/recipe.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap_or_default() == page(),
        "`UPDATE_DOCS=1 cargo test -p plan --test reference` writes docs/recipe.md anew"
    );
}
