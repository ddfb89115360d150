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
    let question = ["plan", recipe, "--on", "p4d.24xlarge:2", "--search"];
    let (code, out, err) = hairpin(&[&question[..], &["--page", page.to_str().unwrap()]].concat());
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("runners-up") && out.contains("Memory of the fullest rank"), "{out}");
    assert!(out.contains("sagemaker") && out.contains("reserved-1y") && out.contains("2021-06"), "every offer with its date: {out}");
    check_page(&page);
    let plan = json(&[&question[..], &["--json"]].concat());
    let figure = |key: &str| plan[key].as_f64().unwrap();
    let expected = |at: usize| plan["expected_secs"][at].as_f64().unwrap();
    let cost = expected(1) / 3600.0 * 2.0 * plan["price"]["usd_per_hour"].as_f64().unwrap();
    assert!((figure("usd") / cost - 1.0).abs() < 1e-9 && figure("secs") > figure("training_secs"));
    assert!(expected(0) < expected(1) && figure("secs") < expected(1) && expected(1) < expected(2));
    let mfu = plan["choice"]["time"]["mfu"].as_f64().unwrap();
    assert!((0.2..0.7).contains(&mfu), "{mfu}");
    for offer in plan["offers"].as_array().unwrap() {
        let [of_offer, usd] = [&offer[0]["usd_per_hour"], &offer[1]].map(|v| v.as_f64().unwrap());
        assert!((usd / (expected(1) / 3600.0 * 2.0 * of_offer) - 1.0).abs() < 1e-9);
    }
    // What no cluster can do says what is nearest.
    let large = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/gpt3-175b.toml");
    let (code, _, err) = hairpin(&["plan", large, "--on", "p4d.24xlarge:1", "--search"]);
    assert!(code == 2 && err.contains("plan::impossible") && err.contains("bytes"), "{code} {err}");
    let (code, _, err) = hairpin(&["plan", recipe, "--on", "p4d.24xlarge:many"]);
    assert!(code == 2 && err.contains("plan::unit"), "{code} {err}");
}

#[test]
fn a_recipe_of_images_is_priced_here_in_images_and_on_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let (page, recipe) = (folder.path().join("here.html"), folder.path().join("images.toml"));
    let text = "name = \"pictures\"\nmodel = { kind = \"vit\", classes = 10, tower = { size = 32, patch = 8, \
        layers = 2, width = 64, heads = 2, ffn = 128, mlp = \"gelu\", eps = 1e-6, norm_first = false } }\n\
        batch = { sequences = 4, micro_batch = 4 }\ntrain = { steps = 30 }\n";
    std::fs::write(&recipe, text).unwrap();
    let (code, out, err) = hairpin(&["plan", recipe.to_str().unwrap(), "--page", page.to_str().unwrap()]);
    assert!(code == 0 && out.contains("images/s") && !out.contains("tokens"), "{out} {err}");
    check_page(&page);
    assert!(out.contains("decode images") && out.contains("as the catalogue has it"), "{out}");
    assert_eq!(json(&["plan", recipe.to_str().unwrap(), "--json"])[0]["tokens"], 120, "4 images in each of 30 steps");
    // Images that are here tell how fast they are made.
    for i in 0..12 {
        std::fs::write(folder.path().join(format!("{i}.png")), vision::demo::DIGITS).unwrap();
    }
    let set = format!("data.path={:?}", folder.path().display().to_string());
    let price = &json(&["plan", recipe.to_str().unwrap(), "--set", &set, "--json"])[0];
    let before = &price["before"];
    assert_eq!((&before["images"], &before["feed"]["samples"]), (&serde_json::json!(12), &serde_json::json!(4)), "{before}");
    assert!(before["feed"]["decode_core_secs"].as_f64().unwrap() > 0.0 && before["feed"]["decoded_ratio"] == 0.0, "{before}");
    let secs = |value: &serde_json::Value| value.as_f64().unwrap();
    let steps_secs = 30.0 * (secs(&price["step_secs"]) + secs(&before["step_secs"])) + secs(&before["open_secs"]);
    assert!(secs(&price["secs"]) > steps_secs, "held-out images are measured too: {price}");
    // On machines with accelerators it hides, or is waited for.
    let rented = json(&["plan", recipe.to_str().unwrap(), "--on", "g5.xlarge:1", "--json"]);
    assert!(secs(&rented["feed"]["cores_needed"]) > 0.0 && secs(&rented["wait_secs"]) > 0.0, "{rented}");
}

#[test]
fn the_talks_hours_of_reading_are_computed_not_quoted() {
    let hours = json(&["plan", "reading", "--pages", "5.74B", "--secs-per-page", "52", "--json"])["reading"]["hours"].as_f64().unwrap();
    assert!((hours - 5.74e9 * 52.0 / 3600.0).abs() < 1.0);
    // And what an accelerator takes for as much: 6 N D over its peak and what is kept of it, N a twentieth of D.
    let said = json(&["plan", "reading", "--pages", "5.74B", "--json"]);
    let of = |key: &str| said[key].as_f64().unwrap();
    let tokens = 5.74e9 * 52.0 / 60.0 * 238.0 / 0.77;
    assert!((of("tokens") / tokens - 1.0).abs() < 1e-9 && (of("params") / (tokens / 20.0) - 1.0).abs() < 1e-9);
    let kept = 6.0 * of("params") * tokens / (312e12 * of("accelerator_secs"));
    assert!((0.2..0.6).contains(&kept), "{kept}");
}

#[test]
fn a_fitted_law_plans_and_units_are_kind() {
    let folder = tempfile::tempdir().unwrap();
    let points = concat!(env!("CARGO_MANIFEST_DIR"), "/../plan/src/laws/chinchilla_points.csv");
    let (_, law, _) = hairpin(&["plan", "fit", points, "--draws", "50", "--json"]);
    let path = folder.path().join("law.json");
    std::fs::write(&path, law).unwrap();
    let own = json(&[&BUDGET[..], &["--law", path.to_str().unwrap(), "--json"]].concat());
    let kind = json(&["plan", "--budget-usd", "$2M", "--on", "P4D.24xlarge", "--deadline-days", "60 days", "--json"]);
    let loss = |plan: &serde_json::Value| plan["choices"][0]["loss"]["loss"].as_f64().unwrap();
    assert!((loss(&own) / loss(&kind) - 1.0).abs() < 0.01, "the same runs, fitted here and by the replication");
    assert_eq!(loss(&kind), loss(&json(&[&BUDGET[..], &["--json"]].concat())));
}

#[test]
fn a_refusal_says_what_is_nearest() {
    let cases: [(&[&str], &str, &str); 14] = [
        (&["plan", "--budget-usd", "2M", "--on", "p4d.24xlrage"], "plan::unknown", "p4d.24xlarge"),
        (&["plan", "--budget-usd", "2M", "--on", "p4d"], "plan::unknown", "p4d.24xlarge"),
        (&["plan", "--budget-usd", "2M", "--on", "H100"], "plan::unknown", "p5.48xlarge"),
        (&["plan", "--budget-usd", "2M", "--on", "ml.p4d.24xlarge", "--service", "ec2"], "plan::impossible", "p4d.24xlarge"),
        (&["plan", "approach", "--base", "gpt2"], "plan::unknown", "GPT-2 1.5B"),
        (&["plan", "--budget-usd", "2M", "--on", "p4d.24xlarge", "--deadline-days", "1"], "plan::impossible", "--deadline-days"),
        (&["plan", "--budget-usd", "3", "--on", "p4d.24xlarge"], "plan::impossible", "21.96"),
        (&["plan", "--budget-usd", "a lot", "--on", "p4d.24xlarge"], "--budget-usd", "1.4T"),
        (&["plan", "--budget-usd", "2M", "--on", "p4d.24xlarge", "--prices-of", "2019-01"], "plan::impossible", "2020-11"),
        (&["plan", "--budget-usd", "2M", "--on", "c7i.48xlarge"], "plan::unknown", "instance with accelerators"),
        (&["plan", "align", "--actor", "175B"], "plan::impossible", "--nodes"),
        (&["plan", "data", "web=xx:1TB"], "plan::unknown", "plan list languages"),
        (&["plan", "fit", "nowhere.csv"], "plan::points", "params"),
        (&["plan", "approach", "--language", "klingon"], "plan::unknown", "plan list languages"),
    ];
    for (args, code, word) in cases {
        let (status, _, err) = hairpin(args);
        assert!(status == 2 && err.contains(code), "{args:?}: {status} {err}");
        assert!(err.contains(word), "{args:?}: {err}");
    }
}

#[test]
fn every_name_that_can_be_asked_for_is_listed() {
    let all = json(&["plan", "list", "--json"]);
    for (list, name) in [("instances", "p4d.24xlarge"), ("accelerators", "H100"), ("languages", "code"), ("presets", "gpt2-124m")] {
        assert!(all[list].as_array().unwrap().iter().any(|row| row["name"] == name), "{list} {name}");
    }
    let (code, out, _) = hairpin(&["plan", "list", "presets"]);
    assert!(code == 0 && out.contains("mixtral-8x7b") && !out.contains("p4d.24xlarge"), "{out}");
}

#[test]
fn sagemakers_names_have_sagemakers_prices() {
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/gpt2-124m.toml");
    let plan = |on: &str| json(&["plan", recipe, "--on", on, "--set", "train.steps=100", "--json"]);
    assert_eq!(plan("ml.g5.xlarge:1")["price"]["service"], "sagemaker");
    assert_eq!(plan("g5.xlarge:1")["price"]["service"], "ec2");
}

#[test]
fn a_number_that_is_none_is_refused_with_its_flag() {
    let on: &[&str] = &["plan", "--budget-usd", "2M", "--on", "p4d.24xlarge"];
    let flags: [(&[&str], &str); 22] = [
        (&["plan", "--on", "p4d.24xlarge"], "--budget-usd"),
        (on, "--deadline-days"),
        (on, "--data"),
        (on, "--serve"),
        (on, "--mfu"),
        (on, "--context"),
        (on, "--vocab"),
        (&["plan", "reading"], "--pages"),
        (&["plan", "reading", "--pages", "1M"], "--secs-per-page"),
        (&["plan", "reading", "--tokens", "1T"], "--params"),
        (&["plan", "reliability"], "--params"),
        (&["plan", "reliability", "--params", "1B"], "--hours-between-failures"),
        (&["plan", "reliability", "--params", "1B"], "--nodes"),
        (&["plan", "align"], "--actor"),
        (&["plan", "align", "--actor", "1B"], "--answers"),
        (&["plan", "align", "--actor", "1B"], "--episodes"),
        (&["plan", "align", "--actor", "1B"], "--answer-tokens"),
        (&["plan", "data", "web=en:1TB"], "--kept"),
        (&["plan", "data", "web=en:1TB"], "--keep"),
        (&["plan", "data", "web=en:1TB"], "--vocab"),
        (&["plan", "approach"], "--latency-secs"),
        (&["plan", "approach"], "--queries-per-day"),
    ];
    for (args, flag) in flags {
        for value in ["0", "-1", "NaN", "inf", "1e400", "99999999999999999999999999", "", "é", "3 parsecs"] {
            let (code, out, err) = hairpin(&[args, &[&format!("{flag}={value}")]].concat());
            assert!(code == 2 && out.is_empty() && err.contains(flag), "{args:?} {flag}={value}: {code} {out} {err}");
        }
    }
}

#[test]
fn a_file_that_is_none_is_refused_with_what_is_wrong_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let runs = |rows: &str| format!("params,tokens,loss\n{rows}");
    let many = runs(&"1B,20B,2.5\n".repeat(20_001));
    for (text, word) in [
        (String::new(), "empty"),
        ("params,tokens\n1B,20B\n".into(), "no column `loss`"),
        (runs("1B,20B,NaN\n"), "line 2"),
        (runs("1B,20B,2.5\n1B\n"), "line 3"),
        (runs("1B,20B,2.5\n"), "1 runs are too few"),
        (runs(&"1B,20B,2.5\n".repeat(9)), "nearly the same parameters"),
        (many, "too many"),
    ] {
        let (code, _, err) = hairpin(&["plan", "fit", &file("runs.csv", text.as_bytes())]);
        assert!(code == 2 && err.contains("plan::points") && err.contains(word), "{word}: {code} {err}");
    }
    let (code, _, err) = hairpin(&["plan", "fit", &file("runs.csv", &[0xff, 0xfe, 0x00])]);
    assert!(code == 2 && err.contains("plan::points"), "{err}");
    for (text, word) in [("", "plan::law"), ("{\"name\": \"x\"", "plan::law"), ("[]", "plan::law")] {
        let (code, _, err) = hairpin(&[&BUDGET[..], &["--law", &file("law.json", text.as_bytes())]].concat());
        assert!(code == 2 && err.contains(word), "{text}: {err}");
    }
    let row = "[[instance]]\nname = \"x1\"\nnet_gbps = 1\nvcpus = 1\nmemory_gib = 1\nprices = []\n";
    for (text, word) in [
        (format!("{row}colour = 1\n"), "colour"),
        (row.replace("vcpus", "vcpu"), "vcpu"),
        (row.replace("net_gbps = 1", "net_gbps = 0"), "net_gbps"),
        (row[..30].to_owned(), "TOML"),
        (format!("{row}{row}"), "there twice"),
    ] {
        let (code, _, err) = hairpin(&["plan", "data", "web=en:1TB", "--catalogue", &file("mine.toml", text.as_bytes())]);
        assert!(code == 2 && err.contains("plan::catalogue") && err.contains("mine.toml") && err.contains(word), "{word}: {err}");
    }
}

/// Sentences of words that are common in the order of their place in a list, no two alike.
fn corpus(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let common = ["the", "of", "and", "to", "that", "with", "have", "be"];
    let parts = ["ra", "lo", "min", "ter", "sa", "ku", "vel", "do", "ni", "pas"];
    let word = |n: u64| match n {
        0..8 => common[n as usize].to_owned(),
        _ => format!("{}{}{}", parts[(n % 10) as usize], parts[(n / 10 % 10) as usize], parts[(n / 100) as usize]),
    };
    for document in 0..300_u64 {
        let mut text = String::new();
        for at in 0..240_u64 {
            let share = (engine::mix(document * 1000 + at) >> 40) as f64 / f64::from(1 << 24);
            text += &word((700.0 * share.powi(3)) as u64);
            text += if at % 12 == 11 { ".\n" } else { " " };
        }
        std::fs::write(folder.join(format!("{document:03}.txt")), text).unwrap();
    }
}

#[test]
fn a_ladder_is_laid_climbed_and_planned_anew_on_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    corpus(&folder.path().join("text"));
    let recipe = "name = \"tiny\"\nmodel = { depth = 2 }\nbatch = { sequences = 8, micro_batch = 8, context = 32 }\ntrain = { steps = 320 }\n\
        schedule = { warmup_steps = 10 }\neval = { every_steps = 200, windows = 16 }\n";
    std::fs::write(folder.path().join("tiny.toml"), recipe).unwrap();
    let survey = json(&["plan", "ladder", &at("tiny.toml"), "--corpus", &at("text"), "--out", &at("project"), "--json"]);
    let planned = survey["phases"].as_array().unwrap();
    assert_eq!(planned.len(), 4);
    let of = |key: &str| planned.iter().map(|phase| phase[key].as_f64().unwrap()).collect::<Vec<_>>();
    assert!(of("params").windows(2).all(|w| w[0] <= w[1]) && of("tokens").windows(2).all(|w| w[0] < w[1]));
    // The ledger holds what was planned, and what came of it.
    let (_, _, err) = hairpin(&["climb", &at("project"), "--json"]);
    let ledger = std::fs::read_to_string(folder.path().join("project/ledger.jsonl")).unwrap_or_else(|e| panic!("{e}: {err}"));
    let entries: Vec<serde_json::Value> = ledger.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(entries.len() >= 2 && entries[0]["passed"] == true, "{ledger}");
    for (entry, phase) in entries.iter().zip(planned) {
        assert_eq!((&entry["name"], &entry["params"]), (&phase["name"], &phase["params"]));
        assert_eq!(entry["predicted"]["tokens"].as_f64(), phase["tokens"].as_f64());
    }
    let page = folder.path().join("ladder.html");
    let (code, out, err) = hairpin(&["plan", "ladder", &at("project"), "--page", page.to_str().unwrap()]);
    assert!(code == 0 && out.contains("Planned, said since, and actual") && out.contains("taken over said"), "{out} {err}");
    check_page(&page);
    let again = json(&["plan", "ladder", &at("project"), "--json"]);
    for (phase, entry) in again["phases"].as_array().unwrap().iter().zip(&entries) {
        assert_eq!(phase["planned"]["secs"], entry["predicted"]["secs"], "a finished phase is not measured again");
        assert_eq!(phase["done"]["loss"], entry["actual"]["bits_per_byte"]);
    }
    let (code, _, err) = hairpin(&["plan", "ladder", &at("tiny.toml"), "--corpus", &at("text"), "--out", &at("project")]);
    assert!(code != 0 && err.contains("init::exists"), "{err}");
}

#[test]
fn a_ladder_on_rented_machines_is_a_project_with_its_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/gpt2-355m.toml");
    let out = folder.path().join("project").display().to_string();
    let sizes = ["--set", "train.steps=20000"];
    let survey = json(&[&["plan", "ladder", recipe, "--on", "p4d.24xlarge:2", "--out", &out, "--json"][..], &sizes].concat());
    let project = std::fs::read_to_string(folder.path().join("project/hairpin.toml")).unwrap();
    assert!(project.contains("on = \"p4d.24xlarge:2\""), "{project}");
    let accelerators: Vec<u64> = survey["phases"].as_array().unwrap().iter().map(|p| p["accelerators"].as_u64().unwrap()).collect();
    assert_eq!(accelerators, [1, 8, 16, 16]);
    assert_eq!(json(&["plan", "ladder", &out, "--json"]), survey, "the file alone says the same");
    // A deadline chooses the machines, or is held against those that were.
    let within =
        |time: &str| json(&[&["plan", "ladder", recipe, "--on", "p4d.24xlarge", "--deadline-days", time, "--json"][..], &sizes].concat());
    let last = |survey: &serde_json::Value| survey["phases"][3]["accelerators"].as_u64().unwrap();
    let (soon, late) = (within("6h"), within("10"));
    assert!(last(&soon) > last(&late) && soon["phases"][3]["planned"]["secs"].as_f64().unwrap() < 6.0 * 3600.0, "{soon}");
    let (code, out, _) = hairpin(&[&["plan", "ladder", recipe, "--on", "p4d.24xlarge:2", "--deadline-days", "1h"][..], &sizes].concat());
    assert!(code == 0 && out.contains("the deadline is 60 min 0 s"), "{out}");
    let (code, _, err) = hairpin(&["plan", "ladder", recipe, "--on", "p4d.24xlarge:37"]);
    assert!(code == 2 && err.contains("p4d.24xlarge:36"), "{err}");
    // So of a recipe alone.
    let run = |on: &str, time: &str| hairpin(&[&["plan", recipe, "--on", on, "--deadline-days", time][..], &sizes].concat());
    let (code, out, _) = run("p4d.24xlarge", "6h");
    assert!(code == 0 && !out.contains("on 1 x") && !out.contains("the deadline is"), "{out}");
    let (code, out, _) = run("p4d.24xlarge:1", "6h");
    assert!(code == 0 && out.contains("on 1 x") && out.contains("the deadline is 6.0 h"), "{out}");
}
