//! Faults of the world around a run, each injected into the real binary: files that are none, texts that steer terminals,
//! numbers beyond reason, limits, signals. What is right is an error that names the cause, with its exit code, at once.
#![cfg(target_os = "linux")]

mod corpus;

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::ExitStatusExt,
    },
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Nothing here may take longer: what was opened would wait for ever.
const AT_ONCE: Duration = Duration::from_secs(20);
const ENDS_WITHIN: Duration = Duration::from_secs(5);

fn command(args: &[&str], at: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hairpin"));
    command.args(args).current_dir(at).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ended(mut child: Child, within: Duration) -> Output {
    let since = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if since.elapsed() > within {
            child.kill().unwrap();
            panic!("still at work after {within:?}: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Runs to its end and gives its code and all that it printed.
fn run(args: &[&str], at: &Path) -> (i32, String) {
    let output = ended(command(args, at).spawn().unwrap(), AT_ONCE);
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(!text.contains("bug of hairpin"), "{args:?}: {text}");
    (output.status.code().unwrap_or_else(|| panic!("{args:?}: {:?} {text}", output.status.signal())), text)
}

/// Refused, with these words (lines are broken where they are long) and no more than some lines of text.
fn refused(args: &[&str], at: &Path, words: &str) {
    let (code, text) = run(args, at);
    let flat = text.replace(['\n', '│'], " ").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(matches!(code, 2 | 3) && flat.contains(words) && text.len() < 3000, "{args:?}: {code} {text}");
}

const RECIPE: &str = "[model]\ndepth = 1\n[batch]\nsequences = 4\ncontext = 32\n[train]\nsteps = 4\n";

/// A project with a corpus.
fn project() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    corpus::write(at);
    write_project(at, "corpus", "{ kind = \"bytes\" }");
    fs::write(at.join("t.toml"), RECIPE).unwrap();
    folder
}

fn write_project(at: &Path, corpus: &str, tokenizer: &str) {
    let corpus = if corpus.contains("://") { corpus.to_owned() } else { at.join(corpus).display().to_string() };
    let text = format!(
        "name = \"faults\"\n[data]\nheld_out_ratio = 0.1\ntokenizer = {tokenizer}\n[data.corpus]\npaths = [{corpus:?}]\n[data.dedup]\nnear = false\n[data.clean]\noff = [\"repeated_ngram\"]\n\
         [recipe]\n[[phases]]\nname = \"one\"\ndata_fraction = 1.0\nrecipe = {{ model = {{ depth = 1 }}, train = {{ steps = 4 }} }}\n"
    );
    fs::write(at.join("hairpin.toml"), text).unwrap();
}

fn prepared() -> tempfile::TempDir {
    let folder = project();
    let (code, text) = run(&["data"], folder.path());
    assert_eq!(code, 0, "{text}");
    folder
}

fn shard(at: &Path) -> std::path::PathBuf {
    at.join("data/train-00000.tok")
}

#[test]
fn what_is_no_file_is_refused_at_once_wherever_one_is_named() {
    let folder = prepared();
    let at = folder.path();
    let fifo = at.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(at.join("socket")).unwrap();
    for (path, words) in [
        ("fifo", "a FIFO, not a file"),
        ("socket", "a socket, not a file"),
        ("/dev/zero", "a device, not a file"),
        ("corpus", "a folder, not a file"),
    ] {
        refused(&["train", path, "--out", "x"], at, words);
        if path != "corpus" {
            refused(&["plan", path], at, words);
        }
    }
    for (well_known, args) in [
        ("p/hairpin.toml", vec!["data", "p"]),
        ("p/step-00000001/manifest.json", vec!["eval", "p"]),
        ("p/config.json", vec!["import", "p", "y"]),
        ("p/manifest.json", vec!["train", "t.toml", "--out", "z", "--set", "data.path=p"]),
    ] {
        fs::create_dir_all(at.join(well_known).parent().unwrap()).unwrap();
        symlink(&fifo, at.join(well_known)).unwrap();
        let (code, text) = run(&args, at);
        assert!(matches!(code, 2 | 3), "{args:?}: {text}");
        fs::remove_dir_all(at.join("p")).unwrap();
    }
    write_project(at, "corpus", &format!("{{ kind = \"load\", path = {:?} }}", fifo.display().to_string()));
    refused(&["data"], at, "a FIFO, not a file");
}

#[test]
fn a_shard_that_shrinks_under_a_run_is_an_error_that_names_it() {
    let folder = prepared();
    let at = folder.path();
    let mut child = command(&["train", "t.toml", "--out", "run", "--set", "train.steps=100000"], at).spawn().unwrap();
    let since = Instant::now();
    while !at.join("run/metrics.jsonl").metadata().is_ok_and(|m| m.len() > 0) {
        assert!(since.elapsed() < AT_ONCE && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::OpenOptions::new().write(true).open(shard(at)).unwrap().set_len(64).unwrap();
    let output = ended(child, AT_ONCE);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(2 | 3)) && text.contains("become shorter"), "{:?} {text}", output.status);
}

/// Changes a file of prepared data, and makes all hashes right again.
fn forge(at: &Path, file: &str, change: impl FnOnce(&mut Vec<u8>), key: &str) {
    let path = at.join("data").join(file);
    let mut bytes = fs::read(&path).unwrap();
    let old = blake3::hash(&bytes).to_hex().to_string();
    change(&mut bytes);
    fs::write(&path, &bytes).unwrap();
    let manifest = at.join("data/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap().replace(&old, &blake3::hash(&bytes).to_hex());
    let text = if key.is_empty() { text } else { text.replace(&format!("\"{file}\""), &format!("\"{key}\"")) };
    fs::write(&manifest, &text).unwrap();
    fs::write(at.join("data/manifest.blake3"), blake3::hash(text.as_bytes()).to_hex().as_bytes()).unwrap();
}

#[test]
fn tokens_beyond_the_vocabulary_and_manifests_that_point_outside_are_found_at_opening() {
    let folder = prepared();
    let at = folder.path();
    forge(at, "train-00000.tok", |bytes| bytes[64..66].copy_from_slice(&[0xff, 0xff]), "");
    refused(&["train", "t.toml", "--out", "run"], at, "beyond the vocabulary");
    fs::copy(shard(at), at.join("outside.tok")).unwrap();
    forge(at, "train-00000.tok", |bytes| bytes[64..66].copy_from_slice(&[1, 0]), "../outside.tok");
    refused(&["train", "t.toml", "--out", "run"], at, "path separator");
}

#[test]
fn a_token_near_two_to_the_32nd_aborts_nothing() {
    let folder = prepared();
    let at = folder.path();
    let text = fs::read_to_string(at.join("data/tokenizer.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["model"]["vocab"]["zebra"] = serde_json::json!(4_294_967_294_u32);
    fs::write(at.join("far.json"), json.to_string()).unwrap();
    write_project(at, "corpus", &format!("{{ kind = \"load\", path = {:?} }}", at.join("far.json").display().to_string()));
    refused(&["data"], at, "4294967294");
}

#[test]
fn escape_sequences_and_passwords_are_never_printed() {
    let folder = project();
    let at = folder.path();
    let name = "evil\u{1b}]0;title\u{7}\u{202e}.toml";
    fs::write(at.join(name), "[model]\ndepth = \"\u{1b}[2J\"\n").unwrap();
    for args in [vec!["plan", name], vec!["train", "nowhere\u{1b}[31m", "--out", "x"], vec!["no-such\u{1b}[31m"], vec!["eval", name]] {
        let (code, text) = run(&args, at);
        assert!(matches!(code, 2 | 3), "{text}");
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}', '\u{9b}']), "{args:?}: {text:?}");
    }
    write_project(at, "s3://me:hunter2@bucket/x?X-Amz-Signature=abcdef", "{ kind = \"bytes\" }");
    for args in [vec!["data"], vec!["climb"], vec!["init", "new", "--corpus", "https://me:hunter2@host/x?token=abcdef"]] {
        let (_, text) = run(&args, at);
        assert!(!text.contains("hunter2") && !text.contains("abcdef"), "{args:?}: {text}");
    }
}

#[test]
fn numbers_beyond_reason_are_refused_by_name() {
    let folder = prepared();
    let at = folder.path();
    for (set, words) in [
        ("train.threads=50000", "train.threads: 50000 is not in 1..=1024"),
        ("batch.sequences=1000000000000", "batch.sequences"),
        ("model.vocab=1099511627776", "model.vocab"),
        ("model.depth=1000000", "model.depth"),
        ("batch.context=1099511627776", "batch.context"),
        ("batch.lanes=1099511627776", "batch.lanes"),
        ("parallel.ranks=1000000000000", "parallel.ranks"),
        ("train.steps=1000000000000000000", "train.steps"),
    ] {
        refused(&["train", "t.toml", "--out", "x", "--set", set], at, words);
    }
}

#[test]
fn deep_and_huge_recipes_give_short_errors() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let deep = 100_000;
    for (text, words) in [
        (format!("x = {}{}", "[".repeat(deep), "]".repeat(deep)), "recursion"),
        (format!("a{} = 1", ".a".repeat(deep)), "recursion limit"),
        (format!("#{}", "x".repeat(2 << 20)), "larger than"),
        (format!("[model]\ndepth = 1\n{} = 1", "x".repeat(900_000)), "unknown field"),
    ] {
        fs::write(at.join("r.toml"), text).unwrap();
        refused(&["plan", "r.toml"], at, words);
    }
    fs::write(at.join("r.toml"), RECIPE).unwrap();
    refused(&["plan", "r.toml", "--set", &format!("a{}=1", ".a".repeat(20_000))], at, "no key lies so deep");
}

#[test]
fn a_full_stdout_is_an_error_and_a_closed_one_ends_quietly() {
    let folder = tempfile::tempdir().unwrap();
    for args in [vec!["--help"], vec!["--version"], vec!["plan", "fit", "--help"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = ended(command(&args, folder.path()).stdout(full).spawn().unwrap(), AT_ONCE);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(3) && text.contains("stdout"), "{args:?}: {text}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = ended(command(&args, folder.path()).stdout(writer).spawn().unwrap(), AT_ONCE);
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}

#[test]
fn what_does_not_fit_under_a_limit_of_addresses_is_refused_with_numbers() {
    let folder = prepared();
    let at = folder.path();
    for kib in [150_000, 250_000, 350_000, 450_000, 550_000] {
        let line = format!(
            "ulimit -v {kib}; exec \"$0\" train t.toml --out run --set batch.context=2048 --set batch.sequences=4 --set model.depth=8"
        );
        let output = Command::new("sh").args(["-c", &line, env!("CARGO_BIN_EXE_hairpin")]).current_dir(at).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(3) && text.contains("iB"), "{kib}: {:?} {text}", output.status);
    }
}

#[test]
fn a_signal_ends_what_has_nothing_to_save() {
    let folder = tempfile::tempdir().unwrap();
    for (signal, args) in [("-TERM", ["doctor"].as_slice()), ("-INT", &["bench", "step", "--steps", "1000"])] {
        let child = command(args, folder.path()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let output = ended(child, ENDS_WITHIN);
        assert_eq!(output.status.code(), Some(130), "{output:?}");
    }
}

#[test]
fn links_that_lead_upward_end() {
    let folder = project();
    let at = folder.path();
    symlink("..", at.join("corpus/up")).unwrap();
    symlink("self", at.join("corpus/self.txt")).unwrap();
    let (code, text) = run(&["data"], at);
    assert_eq!(code, 0, "{text}");
}

/// Nobody may be refused anything as root, so the test becomes somebody else where it is.
#[test]
fn what_may_not_be_read_is_named_as_such() {
    let folder = prepared();
    let at = folder.path();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let is_root = status.lines().any(|line| line.starts_with("Uid:\t0\t"));
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    open(at);
    let shut = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o0)).unwrap();
    for (path, args) in
        [("data", ["train", "t.toml", "--out", "run"].as_slice()), ("hairpin.toml", &["data"]), ("t.toml", &["plan", "t.toml"])]
    {
        shut(&at.join(path));
        let mut as_other = Command::new("setpriv");
        as_other.args(["--reuid", "65534", "--clear-groups", env!("CARGO_BIN_EXE_hairpin")]).args(args).current_dir(at);
        let mut as_me = command(args, at);
        let Ok(output) = (if is_root { &mut as_other } else { &mut as_me }).output() else { return };
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if text.contains("setpriv") || output.stderr.is_empty() {
            return; // There is no way to become another here.
        }
        assert!(!output.status.success() && text.contains("Permission denied"), "{path}: {text}");
        assert!(!text.contains("hairpin init"), "{path}: {text}");
        open(&at.join(path));
    }
}
