//! The real binary in a temporary folder: the whole road, its exit codes, and runs that are killed and go on.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn hairpin(args: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hairpin")).args(args).current_dir(folder).output().unwrap()
}

fn ok(args: &[&str], folder: &Path) -> String {
    let output = hairpin(args, folder);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Documents with something to learn: sentences drawn from a small grammar.
fn corpus(folder: &Path) -> PathBuf {
    let corpus = folder.join("corpus");
    std::fs::create_dir_all(&corpus).unwrap();
    let pick = |words: &[&'static str], n: u64| words[(n % words.len() as u64) as usize];
    for document in 0..160_u64 {
        let mut text = String::new();
        for line in 0..40_u64 {
            let n = engine::mix(document * 1000 + line);
            let subject = pick(&["the road", "a river", "every model", "the old bridge", "one traveller"], n);
            let verb = pick(&["turns", "waits", "climbs", "remembers", "falls"], n >> 8);
            let place = pick(&["beyond the hill", "near the water", "under a long sky", "before the last bend"], n >> 16);
            text += &format!("{subject} {verb} {place}, and {} of {} go on.\n", n >> 40 & 1023, document);
        }
        std::fs::write(corpus.join(format!("{document:03}.txt")), text).unwrap();
    }
    corpus
}

/// A project small enough for a test: two phases of a few steps.
fn project(folder: &Path) {
    let corpus = corpus(folder);
    let text = format!(
        "name = \"test\"\n[data]\nheld_out_ratio = 0.1\ntokenizer = {{ kind = \"train\", vocab = 320 }}\n[data.corpus]\npaths = [{:?}]\n\
         [data.dedup]\nnear = false\n[data.clean]\noff = [\"repeated_ngram\"]\n\
         [recipe]\nbatch = {{ sequences = 4, micro_batch = 4, context = 32 }}\nschedule = {{ warmup_steps = 5 }}\n\
         eval = {{ every_steps = 20, windows = 8 }}\ncheckpoint = {{ every_steps = 10 }}\noptim = {{ lr = 0.01 }}\n\
         [[phases]]\nname = \"base\"\ndata_fraction = 0.3\nrecipe = {{ model = {{ depth = 1 }}, train = {{ steps = 60 }} }}\n\
         [[phases]]\nname = \"next\"\ndata_fraction = 1.0\nrecipe = {{ model = {{ depth = 2 }}, train = {{ steps = 60 }} }}\n",
        corpus.display().to_string()
    );
    std::fs::write(folder.join("hairpin.toml"), text).unwrap();
}

/// That project's folder, its data ready.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    project(folder.path());
    ok(&["data"], folder.path());
    folder
}

#[test]
fn the_whole_road_from_text_to_an_exported_model() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    project(at);
    let stats: serde_json::Value = serde_json::from_str(&ok(&["data", "--json"], at)).unwrap();
    assert!(stats["train_tokens"].as_u64().unwrap() > 10_000);
    let prices: serde_json::Value = serde_json::from_str(&ok(&["plan", "--json"], at)).unwrap();
    assert_eq!(prices.as_array().unwrap().len(), 2);

    // Gates may fail on so short a run: what counts here is that each speaks, and that the code says which.
    let climbed = hairpin(&["climb", "--json"], at);
    let outcome: serde_json::Value = serde_json::from_slice(&climbed.stdout).unwrap();
    let passed = outcome["passed"].as_bool().unwrap();
    assert_eq!(climbed.status.code(), Some(i32::from(!passed)), "{}", String::from_utf8_lossy(&climbed.stderr));
    let first = &outcome["gates"][0];
    let gate = |name: &str| first["gates"].as_array().unwrap().iter().find(|g| g["name"] == name).unwrap().clone();
    for name in ["reloads", "finite", "generates", "exports"] {
        assert_eq!(gate(name)["passed"], true, "{}", gate(name));
    }
    let entry: serde_json::Value =
        serde_json::from_str(std::fs::read_to_string(at.join("ledger.jsonl")).unwrap().lines().next().unwrap()).unwrap();
    assert_eq!(entry["predicted"]["memory_bytes"], entry["actual"]["memory_bytes"], "memory is predicted to the byte");

    let run = at.join("phases/1-base");
    let run = run.to_str().unwrap();
    let bits: serde_json::Value = serde_json::from_str(&ok(&["eval", run, "--json", "--windows", "8"], at)).unwrap();
    assert!((bits["bits_per_byte"].as_f64().unwrap() - first["bits_per_byte"].as_f64().unwrap()).abs() < 1e-9);
    let text = ok(&["generate", run, "--prompt", "the road", "--tokens", "12", "--seed", "3"], at);
    assert!(text.starts_with("the road") && text == ok(&["generate", run, "--prompt", "the road", "--tokens", "12", "--seed", "3"], at));
    ok(&["export", run, "exported"], at);
    ok(&["import", "exported", "imported"], at);
    let again: serde_json::Value =
        serde_json::from_str(&ok(&["eval", "imported", "--data", "data", "--json", "--windows", "8"], at)).unwrap();
    assert_eq!(again["bits_per_byte"], bits["bits_per_byte"], "an exported model that comes back is the same");
    ok(&["report"], at);
    assert!(std::fs::read_to_string(at.join("report.html")).unwrap().contains("The ladder"));
}

#[test]
fn a_run_killed_at_any_moment_ends_with_the_bits_of_one_left_alone() {
    let folder = prepared();
    let at = folder.path();
    let recipe = "name = \"k\"\n[model]\ndepth = 1\n[batch]\nsequences = 4\nmicro_batch = 2\nlanes = 2\ncontext = 32\n[train]\nsteps = 60\n\
                  [checkpoint]\nevery_steps = 7\n[eval]\nevery_steps = 30\nwindows = 4\n";
    std::fs::write(at.join("k.toml"), recipe).unwrap();
    ok(&["train", "k.toml", "--out", "alone"], at);
    for round in 0..12_u64 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hairpin"))
            .args(["train", "k.toml", "--out", "killed", "--resume"])
            .current_dir(at)
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20 + engine::mix(round) % 180));
        let _ = child.kill();
        if child.wait().unwrap().success() {
            break;
        }
    }
    ok(&["train", "k.toml", "--out", "killed", "--resume"], at);
    let end = |run: &str| std::fs::read(at.join(run).join("step-00000060/tensors-00000.safetensors")).unwrap();
    assert!(end("alone") == end("killed"), "the last checkpoints differ");
    let losses = |run: &str| -> Vec<String> {
        let text = std::fs::read_to_string(at.join(run).join("metrics.jsonl")).unwrap();
        let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        text.lines().map(|line| format!("{} {}", value(line)["step"], value(line)["loss"])).collect()
    };
    assert_eq!(losses("alone"), losses("killed"));
}

#[test]
fn a_failed_gate_stops_the_climb_with_advice_and_the_climb_goes_on_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    project(at);
    // A rate at which nothing is learnt.
    let whole = std::fs::read_to_string(at.join("hairpin.toml")).unwrap();
    let slow = whole.replace("{ lr = 0.01 }", "{ kind = \"adamw\", lr = 1e-9 }").replace("steps = 60", "steps = 20");
    let write = |text: &str| std::fs::write(at.join("hairpin.toml"), text).unwrap();
    let climb = |args: &[&str], code: i32| {
        let output = hairpin(&[&["climb"], args].concat(), at);
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{said}");
        said
    };
    let entries = || -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(at.join("ledger.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    // Of all steps of the run that is there.
    let steps_secs = || -> f64 {
        let text = std::fs::read_to_string(at.join("phases/1-base/metrics.jsonl")).unwrap();
        let rate = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["tokens_per_sec"].as_f64().unwrap();
        text.lines().map(|line| f64::from(4 * 32) / rate(line)).sum()
    };
    let secs = |entry: &serde_json::Value| entry["actual"]["secs"].as_f64().unwrap();
    write(&slow);
    let said = climb(&[], 1);
    assert!(said.contains("phase 1 failed gate `better_than_ngram`") && said.contains("try: train"), "{said}");
    assert!(entries().len() == 1 && at.join("report.html").is_file() && !at.join("phases/2-next").exists(), "phase 2 was not begun");

    // Climbed again without a change, or killed before its line was written, it has taken what its steps took.
    climb(&[], 1);
    assert!(secs(&entries()[1]) >= steps_secs(), "{} < {}", secs(&entries()[1]), steps_secs());
    std::fs::remove_file(at.join("ledger.jsonl")).unwrap();
    climb(&[], 1);
    assert!(secs(&entries()[0]) >= steps_secs() && steps_secs() > 0.0);

    // Longer, as it advised: on from where the learning rate had not come down.
    write(&slow.replacen("steps = 20", "steps = 24", 1));
    let said = climb(&[], 1);
    assert!(said.contains("resuming from step 8"), "{said}");
    assert_eq!(entries()[1]["actual"]["tokens"], 24 * 4 * 32);
    assert!(secs(&entries()[1]) >= steps_secs());

    // Another rate is another run: nothing is given up unless asked.
    write(&slow.replacen("steps = 20", "steps = 24", 1).replace("1e-9", "2e-9"));
    let said = climb(&[], 2);
    assert!(said.contains("optim.lr") && said.contains("--anew base"), "{said}");
    assert!(at.join("phases/1-base/step-00000024").is_dir() && entries().len() == 2);
    assert!(climb(&["--anew", "nosuch"], 2).contains("`base`, `next`"));
    let said = climb(&["--anew", "base"], 1);
    assert!(said.contains("begins anew") && !said.contains("resuming"), "{said}");
    let kept = std::fs::read_dir(at.join("phases")).unwrap().flatten().find(|e| e.file_name().to_string_lossy().ends_with(".old")).unwrap();
    assert!(kept.path().join("step-00000024").is_dir() && entries().len() == 3);
}

#[test]
fn a_phase_that_has_passed_is_not_trained_again_when_its_checkpoints_are_gone_and_no_phase_trains_without_a_ledger() {
    let folder = prepared();
    let at = folder.path();
    let ledger = at.join("ledger.jsonl");
    std::fs::create_dir(&ledger).unwrap();
    let output = hairpin(&["climb"], at);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(3) && said.contains("ledger.jsonl") && !at.join("phases").exists(), "{said}");
    std::fs::remove_dir(&ledger).unwrap();

    let short = std::fs::read_to_string(at.join("hairpin.toml")).unwrap().replace("steps = 60", "steps = 3");
    std::fs::write(at.join("hairpin.toml"), short).unwrap();
    assert_eq!(hairpin(&["climb"], at).status.code(), Some(1));
    // Its gates say that it passed.
    let mut entry: serde_json::Value = serde_json::from_str(std::fs::read_to_string(&ledger).unwrap().trim()).unwrap();
    entry["passed"] = true.into();
    std::fs::write(&ledger, format!("{entry}\n")).unwrap();
    std::fs::rename(at.join("phases/1-base/step-00000003"), at.join("elsewhere")).unwrap();
    let output = hairpin(&["climb"], at);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("no checkpoint") && said.contains("--anew base"), "{said}");
    std::fs::rename(at.join("elsewhere"), at.join("phases/1-base/step-00000003")).unwrap();
    let output = hairpin(&["climb"], at);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("phase 1 `base` has passed before") && at.join("phases/2-next").is_dir(), "{said}");
}

#[cfg(unix)]
#[test]
fn sigterm_and_ctrl_c_save_and_end_and_the_run_goes_on_to_the_same_bits() {
    let folder = prepared();
    let at = folder.path();
    let recipe = "[model]\ndepth = 1\n[batch]\nsequences = 4\ncontext = 32\n[train]\nsteps = 400\n[checkpoint]\nevery_steps = 400\n\
                  [eval]\nevery_steps = 400\nwindows = 4\n";
    std::fs::write(at.join("s.toml"), recipe).unwrap();
    ok(&["train", "s.toml", "--out", "alone"], at);
    for signal in ["-TERM", "-INT"] {
        let args = ["train", "s.toml", "--out", "stopped", "--resume"];
        let mut child = Command::new(env!("CARGO_BIN_EXE_hairpin")).args(args).current_dir(at).spawn().unwrap();
        let lines = || std::fs::read_to_string(at.join("stopped/metrics.jsonl")).map_or(0, |text| text.lines().count());
        let before = lines();
        while lines() < before + 3 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(3), "{signal}: stopped before its end, and says so");
        let saved = std::fs::read_dir(at.join("stopped")).unwrap().flatten();
        assert!(saved.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("step-")), "{signal}");
    }
    ok(&["train", "s.toml", "--out", "stopped", "--resume"], at);
    let end = |run: &str| std::fs::read(at.join(run).join("step-00000400/tensors-00000.safetensors")).unwrap();
    assert!(end("alone") == end("stopped"));
}

/// A limit on the size of files stands in for the full disk: both make a write fail half way.
#[cfg(unix)]
#[test]
fn a_full_disk_stops_a_run_with_three_and_loses_nothing_finished() {
    let folder = prepared();
    let at = folder.path();
    let recipe = "[model]\ndepth = 1\n[batch]\nsequences = 4\ncontext = 32\n[train]\nsteps = 20\n\
                  [checkpoint]\nevery_steps = 5\n[eval]\nwindows = 4\n";
    std::fs::write(at.join("t.toml"), recipe).unwrap();
    ok(&["train", "t.toml", "--out", "alone"], at);
    let line = "trap '' XFSZ; ulimit -f 100; exec \"$0\" train t.toml --out full --resume";
    let output = Command::new("sh").args(["-c", line, env!("CARGO_BIN_EXE_hairpin")]).current_dir(at).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("safetensors") && text.contains("help"), "{text}");
    assert!(!at.join("full/step-00000005").exists(), "half a checkpoint is none");
    ok(&["train", "t.toml", "--out", "full", "--resume"], at);
    let end = |run: &str| std::fs::read(at.join(run).join("step-00000020/tensors-00000.safetensors")).unwrap();
    assert!(end("alone") == end("full"));
}

#[test]
fn threads_change_no_bit_of_a_run() {
    let folder = prepared();
    let at = folder.path();
    std::fs::write(at.join("t.toml"), "[model]\ndepth = 1\n[batch]\nsequences = 4\ncontext = 32\n[train]\nsteps = 8\n").unwrap();
    let tensors = |threads: &str| {
        let out = format!("run{threads}");
        ok(&["train", "t.toml", "--out", &out, "--set", &format!("train.threads={threads}")], at);
        std::fs::read(at.join(out).join("step-00000008/tensors-00000.safetensors")).unwrap()
    };
    let one = tensors("1");
    assert!(one == tensors("2") && one == tensors("8"));
}

#[test]
fn ranks_change_no_bit_of_a_run_and_it_goes_on_with_another_number_of_them() {
    let folder = prepared();
    let at = folder.path();
    let recipe = "[model]\ndepth = 1\n[batch]\nsequences = 8\nmicro_batch = 1\nlanes = 8\ncontext = 32\n[train]\nsteps = 12\n\
                  [checkpoint]\nevery_steps = 6\n[eval]\nevery_steps = 6\nwindows = 4\n";
    std::fs::write(at.join("r.toml"), recipe).unwrap();
    let end = |run: &str| std::fs::read(at.join(run).join("step-00000012/tensors-00000.safetensors")).unwrap();
    for ranks in ["1", "2", "4", "8"] {
        ok(&["train", "r.toml", "--out", &format!("on{ranks}"), "--ranks", ranks], at);
    }
    let one = end("on1");
    assert!(["on2", "on4", "on8"].iter().all(|run| end(run) == one), "the number of ranks changed a bit");
    // Half on four ranks, half on two.
    std::fs::remove_dir_all(at.join("on4/step-00000012")).unwrap();
    ok(&["train", "r.toml", "--out", "on4", "--ranks", "2", "--resume"], at);
    assert!(end("on4") == one);
}

#[test]
fn wrong_input_ends_with_two_what_the_system_refuses_with_three_and_says_what_where_and_how() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("bad.toml"), "[model]\ndepth = 4\nheads = 3\n").unwrap();
    std::fs::write(at.join("typo.toml"), "[model]\ndepth = 4\n[optimiser]\nlr = 1.0\n").unwrap();
    std::fs::write(at.join("huge.toml"), "[model]\ndepth = 24\n[batch]\ncontext = 1000000\n").unwrap();
    std::fs::create_dir(at.join("empty")).unwrap();
    for (args, code, said) in [
        (vec!["plan", "huge.toml"], 3, "GiB of memory"),
        (vec!["plan", "bad.toml"], 2, "heads"),
        (vec!["plan", "typo.toml"], 2, "optimiser"),
        (vec!["train", "nowhere.toml", "--out", "x"], 3, "nowhere.toml"),
        (vec!["climb", "empty"], 2, "hairpin.toml"),
        (vec!["report", "empty"], 2, "empty"),
        (vec!["eval", "empty"], 2, "empty"),
        (vec!["import", "empty", "y"], 3, "config.json"),
        (vec!["demo", "--corpus", "no-such-*.txt", "--out", "d"], 2, "no-such"),
    ] {
        let output = hairpin(&args, at);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(said) && text.contains("help"), "{args:?}: {text}");
    }
}

#[test]
fn a_second_run_on_one_folder_and_a_run_that_is_there_are_refused() {
    let folder = prepared();
    let at = folder.path();
    std::fs::write(at.join("t.toml"), "[model]\ndepth = 1\n[batch]\nsequences = 4\ncontext = 32\n[train]\nsteps = 3\n").unwrap();
    ok(&["train", "t.toml", "--out", "run"], at);
    let again = hairpin(&["train", "t.toml", "--out", "run"], at);
    assert!(String::from_utf8_lossy(&again.stderr).contains("--resume"));
    let other = hairpin(&["train", "t.toml", "--out", "run", "--resume", "--set", "optim.lr=0.5"], at);
    assert!(String::from_utf8_lossy(&other.stderr).contains("lr ="), "{}", String::from_utf8_lossy(&other.stderr));
    let large = hairpin(&["train", "t.toml", "--out", "large", "--set", "batch.sequences=100000"], at);
    assert!(String::from_utf8_lossy(&large.stderr).contains("windows"));
}

#[test]
fn every_command_has_help_with_an_example() {
    let folder = tempfile::tempdir().unwrap();
    for command in
        ["demo", "init", "data", "plan", "train", "climb", "eval", "generate", "export", "import", "report", "doctor", "bench step"]
    {
        let args: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let text = ok(&args, folder.path());
        assert!(text.contains("Example: hairpin") && text.contains("--json"), "{command}: {text}");
    }
}
