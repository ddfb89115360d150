//! The planner's questions through the real binary: figures as JSON, pages that need nothing else, and refusals that help.

use std::{path::Path, process::Command};

fn hairpin(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_hairpin")).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json(args: &[&str]) -> serde_json::Value {
    let (code, out, err) = hairpin(args);
    assert_eq!(code, 0, "{args:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

const BUDGET: [&str; 7] = ["plan", "--budget-usd", "2000000", "--on", "p4d.24xlarge", "--deadline-days", "60"];

#[test]
fn every_question_is_answered_as_table_json_and_page() {
    let folder = tempfile::tempdir().unwrap();
    let questions: [&[&str]; 7] = [
        &[&BUDGET[..], &["--data", "1T"]].concat(),
        &["plan", "approach", "--domain-tokens", "50B", "--domain", "far", "--examples", "20k"],
        &["plan", "data", "web=en:1.9TB", "books=de:300GB x4", "--kept", "0.5"],
        &["plan", "align", "--actor", "40B", "--nodes", "8"],
        &["plan", "reading", "--pages", "5.74B", "--secs-per-page", "52"],
        &["plan", "reliability", "--params", "50.6B", "--nodes", "64"],
        &["plan", "fit", concat!(env!("CARGO_MANIFEST_DIR"), "/../plan/src/laws/chinchilla_points.csv"), "--draws", "20"],
    ];
    for (i, question) in questions.into_iter().enumerate() {
        let page = folder.path().join(format!("{i}.html"));
        let (code, out, err) = hairpin(&[question, &["--page", page.to_str().unwrap()]].concat());
        assert_eq!(code, 0, "{question:?}: {err}");
        assert!(out.lines().count() > 5 && out.contains('─') && !out.contains("NaN") && !out.contains("inf "), "{out}");
        check_page(&page);
        assert!(json(&[question, &["--json"]].concat()).is_object());
    }
}

fn check_page(path: &Path) {
    let page = std::fs::read_to_string(path).unwrap();
    assert!(page.len() < 1 << 20 && page.contains("<svg") && page.contains("<table"), "{}", path.display());
    assert!(!page.contains("<script") && !page.contains("src=") && !page.contains("NaN"), "{}", path.display());
}

#[test]
fn a_recipe_is_priced_and_cut_for_machines_that_are_not_here() {
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/gpt2-1.5b.toml");
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("rent.html");
    let batch = ["--set", "batch.sequences=512", "--set", "batch.context=1024"];
    let question = [&["plan", recipe, "--on", "p4d.24xlarge:2", "--search"][..], &batch].concat();
    let (code, out, err) = hairpin(&[&question[..], &["--page", page.to_str().unwrap()]].concat());
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("runners-up") && out.contains("Memory of the fullest rank") && page.exists(), "{out}");
    let plan = json(&[&question[..], &["--json"]].concat());
    let figure = |key: &str| plan[key].as_f64().unwrap();
    let cost = figure("secs") / 3600.0 * 2.0 * plan["price"]["usd_per_hour"].as_f64().unwrap();
    assert!((figure("usd") / cost - 1.0).abs() < 1e-9 && figure("secs") > figure("training_secs"));
    let mfu = plan["choice"]["time"]["mfu"].as_f64().unwrap();
    assert!((0.2..0.7).contains(&mfu), "{mfu}");
    // What no cluster can do says what is nearest.
    let large = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/gpt3-175b.toml");
    let (code, _, err) = hairpin(&["plan", large, "--on", "p4d.24xlarge:1", "--search"]);
    assert!(code == 2 && err.contains("plan::impossible") && err.contains("bytes"), "{code} {err}");
    let (code, _, err) = hairpin(&["plan", recipe, "--on", "p4d.24xlarge:many"]);
    assert!(code == 2 && err.contains("plan::unit"), "{code} {err}");
}

#[test]
fn the_talks_hours_of_reading_are_computed_not_quoted() {
    let hours = json(&["plan", "reading", "--pages", "5.74B", "--secs-per-page", "52", "--json"])["reading"]["hours"].as_f64().unwrap();
    assert!((hours - 5.74e9 * 52.0 / 3600.0).abs() < 1.0);
}

#[test]
fn a_fitted_law_plans_and_units_are_kind() {
    let folder = tempfile::tempdir().unwrap();
    let points = concat!(env!("CARGO_MANIFEST_DIR"), "/../plan/src/laws/chinchilla_points.csv");
    let (_, law, _) = hairpin(&["plan", "fit", points, "--draws", "50", "--json"]);
    let path = folder.path().join("law.json");
    std::fs::write(&path, law).unwrap();
    let own = json(&[&BUDGET[..], &["--law", path.to_str().unwrap(), "--json"]].concat());
    let kind = json(&["plan", "--budget-usd", "$2M", "--on", "ml.p4d.24xlarge", "--deadline-days", "60 days", "--json"]);
    let loss = |plan: &serde_json::Value| plan["choices"][0]["loss"]["loss"].as_f64().unwrap();
    assert!((loss(&own) / loss(&kind) - 1.0).abs() < 0.01, "the same runs, fitted here and by the replication");
    assert_eq!(loss(&kind), loss(&json(&[&BUDGET[..], &["--json"]].concat())));
}

#[test]
fn a_refusal_says_what_is_nearest() {
    let cases: [(&[&str], &str, &str); 9] = [
        (&["plan", "--budget-usd", "2M", "--on", "p4d.24xlrage"], "plan::unknown", "p4d.24xlarge"),
        (&["plan", "--budget-usd", "2M", "--on", "p4d.24xlarge", "--deadline-days", "1"], "plan::impossible", "--deadline-days"),
        (&["plan", "--budget-usd", "3", "--on", "p4d.24xlarge"], "plan::impossible", "21.96"),
        (&["plan", "--budget-usd", "a lot", "--on", "p4d.24xlarge"], "plan::unit", "1.4T"),
        (&["plan", "--budget-usd", "2M", "--on", "p4d.24xlarge", "--prices-of", "2019-01"], "plan::impossible", "2020-11"),
        (&["plan", "--budget-usd", "2M", "--on", "c7i.48xlarge"], "plan::unknown", "instance with accelerators"),
        (&["plan", "align", "--actor", "175B"], "plan::impossible", "--nodes"),
        (&["plan", "data", "web=xx:1TB"], "plan::unknown", "closest"),
        (&["plan", "fit", "nowhere.csv"], "plan::points", "params"),
    ];
    for (args, code, word) in cases {
        let (status, _, err) = hairpin(args);
        assert!(status == 2 && err.contains(code), "{args:?}: {status} {err}");
        assert!(err.contains(word), "{args:?}: {err}");
    }
}
