//! What runs at a place: one attempt of a job, from its beginning to a word of how it ended.
//!
//! ```text
//! here            attempt:   lock, program, exit.json
//! in a container  container: what the place left in files or variables -> hosts, files, arguments
//!                            first host: program, or mpirun over all     others: sshd, until the first has ended
//!                            failure file, exit code
//! ```
//! A wish to stop (SIGTERM) goes on to the program, which saves.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use train::clock::Clock;

use crate::{LaunchError, places};

/// Where a container has its files, data and checkpoints. The last two are SageMaker's, and mounts of the same name on Kubernetes.
pub const FILES: &str = "/tmp/hairpin";
pub const DATA: &str = "/opt/ml/input/data/data";
pub const CHECKPOINTS: &str = "/opt/ml/checkpoints";

const LOOK: Duration = Duration::from_millis(20);
/// Of the program's last words, what the failure file holds; the service shows 1,024 characters.
const WORDS_CHARS: usize = 1000;
/// For all hosts of a job to answer.
const HOSTS_WITHIN_SECS: f64 = 900.0;
/// A host that has not been seen to work for so long after its start has no first host any longer.
const IDLE_SECS: f64 = 1800.0;

/// Leave the terminal's session, so that neither its Ctrl-C nor its end is ours.
pub fn detach() {
    // Whoever leads a session already has left it.
    let _ = rustix::process::setsid();
}

/// Run `argv` as attempt `attempt` of the job in `home`: once, however often it is started. The exit code, which is also in `exit.json`.
/// # Errors
/// [`LaunchError::Io`]; [`LaunchError::Contract`] when another process is at it.
pub fn attempt(home: &Path, attempt: u32, argv: &[String], stop: &AtomicBool) -> Result<i32, LaunchError> {
    let path = home.join("lock");
    let mut lock =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(LaunchError::io("create", &path))?;
    // Whoever looks whether it is held, holds it for a moment.
    let since = Clock::start();
    while lock.try_lock().is_err() {
        if since.secs() > 1.0 {
            let help = "nothing: a job that was launched once runs once".into();
            return Err(LaunchError::Contract { problem: format!("another process is at work in `{}`", home.display()), help });
        }
        std::thread::sleep(LOOK);
    }
    if let Some(exit) = places::exit_of(home, attempt) {
        return Ok(exit);
    }
    // What stands there of another attempt is not of this one.
    let put = |lock: &mut File, pid: u32| {
        use std::io::Seek;
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{attempt} {pid}"))
            .map_err(LaunchError::io("write", &path))
    };
    put(&mut lock, 0)?;
    let held = lock.try_clone().map_err(LaunchError::io("open", &path))?;
    // As its standard input the lock is held as long as the program lives, whatever becomes of us.
    let spawned = program(argv).stdin(Stdio::from(held)).spawn();
    let code = match spawned {
        Ok(mut child) => {
            put(&mut lock, child.id())?;
            code(follow(&mut child, stop))
        }
        Err(e) => {
            let said = format!("launch: `{}` cannot be started: {e}\n", argv.first().map_or("", String::as_str));
            let _ = std::io::stderr().write_all(said.as_bytes());
            3
        }
    };
    let exit = home.join("exit.json");
    disk::write(&exit, format!("{{\"attempt\":{attempt},\"code\":{code}}}\n")).map_err(LaunchError::io("write", &exit))?;
    Ok(code)
}

/// `hairpin` means this very program.
fn program(argv: &[String]) -> Command {
    let own = || std::env::current_exe().unwrap_or_else(|_| "hairpin".into());
    let name = argv.first().map_or("", String::as_str);
    let mut command = Command::new(if name == "hairpin" { own() } else { PathBuf::from(name) });
    command.args(argv.get(1..).unwrap_or_default());
    command
}

/// Wait for a program, and pass a wish to stop on to it, once.
fn follow(child: &mut Child, stop: &AtomicBool) -> std::io::Result<ExitStatus> {
    let pid = Pid::from_child(child);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                if stop.load(Ordering::Relaxed) {
                    let _ = kill_process(pid, Signal::TERM);
                    return;
                }
                std::thread::sleep(LOOK);
            }
        });
        let status = child.wait();
        ended.store(true, Ordering::Relaxed);
        status
    })
}

fn code(status: std::io::Result<ExitStatus>) -> i32 {
    status.map_or(3, |status| status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// What a place has left for the program in its container.
#[derive(Debug, Clone, PartialEq)]
pub struct Contract {
    pub hosts: Vec<String>,
    /// Of `hosts`, this one.
    pub me: usize,
    pub ranks_each: usize,
    pub argv: Vec<String>,
    pub files: BTreeMap<String, String>,
    /// Where to say why it failed.
    pub failure: Option<PathBuf>,
}

/// `/opt/ml/input/config/resourceconfig.json`
#[derive(Deserialize)]
struct ResourceConfig {
    current_host: String,
    hosts: Vec<String>,
}

impl Contract {
    /// Read what stands under `root`, `/` in a container: SageMaker's files, else the variables that our Kubernetes manifests set.
    /// # Errors
    /// [`LaunchError::Contract`] when there is neither, or it is damaged.
    pub fn read(root: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, LaunchError> {
        let config = root.join("opt/ml/input/config");
        if config.join("resourceconfig.json").is_file() {
            return Self::sagemaker(root, &config);
        }
        match env("HAIRPIN_ARGV") {
            Some(argv) => Self::kubernetes(&argv, env),
            None => Err(broken("there is nothing to work on here", "`hairpin work` is what `hairpin launch` starts in a container")),
        }
    }

    fn sagemaker(root: &Path, config: &Path) -> Result<Self, LaunchError> {
        let read = |name: &str| disk::read(&config.join(name), 1 << 20).map_err(LaunchError::io("read", &config.join(name)));
        let damaged = |name: &str, e: serde_json::Error| broken(&format!("{name}: {e}"), "SageMaker writes it: start the job anew");
        let ResourceConfig { current_host, mut hosts } =
            serde_json::from_slice(&read("resourceconfig.json")?).map_err(|e| damaged("resourceconfig.json", e))?;
        let parameters: BTreeMap<String, String> =
            serde_json::from_slice(&read("hyperparameters.json")?).map_err(|e| damaged("hyperparameters.json", e))?;
        // The order is not promised, and all hosts have to agree who is first.
        hosts.sort_by_key(|host| (host.len(), host.clone()));
        let me = hosts
            .iter()
            .position(|host| *host == current_host)
            .ok_or_else(|| broken("this host is none of the job's", "start the job anew"))?;
        let argv = parameters.get("argv").map(String::as_str).unwrap_or_default();
        Ok(Self {
            me,
            hosts,
            ranks_each: parameters.get("ranks_each").and_then(|n| n.parse().ok()).unwrap_or(1),
            argv: serde_json::from_str(argv).map_err(|e| damaged("the hyperparameter `argv`", e))?,
            files: files_of(&parameters)?,
            failure: Some(root.join("opt/ml/output/failure")),
        })
    }

    fn kubernetes(argv: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, LaunchError> {
        let number = |name: &str| env(name).and_then(|n| n.parse::<usize>().ok());
        let hosts: Vec<String> = env("HAIRPIN_HOSTS").unwrap_or_default().split(',').filter(|h| !h.is_empty()).map(str::to_owned).collect();
        let me = number("JOB_COMPLETION_INDEX").unwrap_or(0);
        if me >= hosts.len().max(1) {
            return Err(broken("this pod's index is beyond the job's hosts", "launch the job anew"));
        }
        let argv = serde_json::from_str(argv).map_err(|e| broken(&format!("HAIRPIN_ARGV: {e}"), "launch the job anew"))?;
        // Its files are mounted.
        Ok(Self {
            hosts,
            me,
            ranks_each: number("HAIRPIN_RANKS_EACH").unwrap_or(1),
            argv,
            files: BTreeMap::new(),
            failure: Some("/dev/termination-log".into()),
        })
    }

    /// What the first host runs.
    #[must_use]
    pub fn command(&self) -> Vec<String> {
        let own = std::iter::once("hairpin".to_owned()).chain(self.argv.clone());
        if self.hosts.len().max(1) * self.ranks_each == 1 {
            return own.collect();
        }
        let hosts: Vec<String> = self.hosts.iter().map(|host| format!("{host}:{}", self.ranks_each)).collect();
        let mut argv = places::mpirun(&hosts.join(","), hosts.len() * self.ranks_each, self.ranks_each);
        argv.extend(own);
        argv
    }

    /// Work: on the first host the program, on the others what lets it in. The exit code.
    /// # Errors
    /// [`LaunchError::Io`]; [`LaunchError::Contract`] when the hosts do not come together.
    pub fn run(&self, stop: &AtomicBool) -> Result<i32, LaunchError> {
        self.write_files(Path::new(FILES))?;
        if self.me > 0 {
            return serve(stop);
        }
        let worked = self.meet(stop).and_then(|()| self.first(stop));
        let said = match &worked {
            Ok((0, _)) => return Ok(0),
            Ok((code, words)) => format!("{words}\nexit code: {code}"),
            Err(error) => error.to_string(),
        };
        if let Some(path) = &self.failure {
            let _ = path.parent().map(fs::create_dir_all);
            let from = said.char_indices().nth_back(WORDS_CHARS).map_or(0, |(at, _)| at);
            fs::write(path, &said[from..]).map_err(LaunchError::io("write", path))?;
        }
        worked.map(|(code, _)| code)
    }

    fn write_files(&self, folder: &Path) -> Result<(), LaunchError> {
        fs::create_dir_all(folder).map_err(LaunchError::io("create", folder))?;
        for (name, text) in &self.files {
            let path = folder.join(name);
            disk::plain_name(name).map_err(|problem| broken(&format!("a file's name {problem}"), "launch the job anew"))?;
            disk::write(&path, text).map_err(LaunchError::io("write", &path))?;
        }
        Ok(())
    }

    /// Wait until every other host lets this one in.
    fn meet(&self, stop: &AtomicBool) -> Result<(), LaunchError> {
        let since = Clock::start();
        for host in self.hosts.iter().skip(1) {
            loop {
                let test = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "ConnectTimeout=5", host, "true"];
                let answers = Command::new("ssh").args(test).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
                if answers.is_ok_and(|status| status.success()) {
                    break;
                }
                if stop.load(Ordering::Relaxed) || since.secs() > HOSTS_WITHIN_SECS {
                    let problem = format!("host {host} did not answer within {HOSTS_WITHIN_SECS} s");
                    return Err(broken(&problem, "look at that host's own log; its image needs sshd and the key of this one"));
                }
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        Ok(())
    }

    /// The program; its exit code and last words, which are passed on as they come.
    fn first(&self, stop: &AtomicBool) -> Result<(i32, String), LaunchError> {
        let argv = self.command();
        let mut command = program(&argv);
        // In a container there is no other user, and the agent must not ask.
        for (key, value) in [
            ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
            ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
            ("OMPI_MCA_plm_rsh_args", "-o StrictHostKeyChecking=no"),
        ] {
            command.env(key, value);
        }
        let mut child =
            command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(LaunchError::io("start", Path::new(&argv[0])))?;
        let stderr = child.stderr.take();
        let words = std::thread::spawn(move || stderr.map(pass_on).unwrap_or_default());
        let code = code(follow(&mut child, stop));
        Ok((code, words.join().unwrap_or_default()))
    }
}

/// Copy to our own stderr, and keep the last lines.
fn pass_on(from: impl std::io::Read) -> String {
    let mut last: VecDeque<String> = VecDeque::new();
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let mut stderr = std::io::stderr().lock();
        let _ = stderr.write_all(&line).and_then(|()| stderr.write_all(b"\n"));
        last.push_back(String::from_utf8_lossy(&line).into_owned());
        if last.len() > 12 {
            last.pop_front();
        }
    }
    last.into_iter().collect::<Vec<_>>().join("\n")
}

/// Let the first host in until its part here has come and gone.
fn serve(stop: &AtomicBool) -> Result<i32, LaunchError> {
    // It wants this folder, which images leave out.
    let _ = fs::create_dir_all("/run/sshd");
    let mut sshd = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e"])
        .stdin(Stdio::null())
        .spawn()
        .map_err(LaunchError::io("start", Path::new("/usr/sbin/sshd")))?;
    let (since, mut has_worked, mut idle) = (Clock::start(), false, 0);
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let is_at_work = works("orted") || works("prted");
        has_worked |= is_at_work;
        idle = if is_at_work { 0 } else { idle + 1 };
        // A few looks in a row, as a first try may fail and be made again.
        if has_worked && idle >= 10 || stop.load(Ordering::Relaxed) || !has_worked && since.secs() > IDLE_SECS {
            let _ = sshd.kill();
            let _ = sshd.wait();
            return Ok(if has_worked || stop.load(Ordering::Relaxed) { 0 } else { 3 });
        }
    }
}

/// Whether a process of this name runs here.
fn works(name: &str) -> bool {
    let comm = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("comm")).ok();
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(comm).any(|comm| comm.trim() == name)
}

/// Files put together again from hyperparameters: `file.000.recipe.toml`, `file.001.recipe.toml`, ...
/// # Errors
/// [`LaunchError::Contract`] when a piece is missing.
pub fn files_of(parameters: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, LaunchError> {
    let mut files: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for (key, part) in parameters {
        let Some((number, name)) = key.strip_prefix("file.").and_then(|rest| rest.split_once('.')) else { continue };
        let (count, text) = files.entry(name.to_owned()).or_default();
        if number.parse() != Ok(*count) {
            return Err(broken(&format!("piece {count} of `{name}` is missing"), "launch the job anew"));
        }
        *count += 1;
        *text += part;
    }
    Ok(files.into_iter().map(|(name, (_, text))| (name, text)).collect())
}

fn broken(problem: &str, help: &str) -> LaunchError {
    LaunchError::Contract { problem: problem.into(), help: help.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn container(resource: &str, parameters: &str) -> (tempfile::TempDir, Result<Contract, LaunchError>) {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("opt/ml/input/config");
        fs::create_dir_all(&config).unwrap();
        fs::write(config.join("resourceconfig.json"), resource).unwrap();
        fs::write(config.join("hyperparameters.json"), parameters).unwrap();
        let contract = Contract::read(folder.path(), &|_| None);
        (folder, contract)
    }

    const HOSTS: &str = r#"{"current_host":"algo-10","current_instance_type":"ml.m5.xlarge","hosts":["algo-10","algo-2","algo-1"],"network_interface_name":"eth0"}"#;
    const PARAMETERS: &str =
        r#"{"argv":"[\"train\",\"/tmp/hairpin/recipe.toml\"]","ranks_each":"2","file.000.recipe.toml":"a","file.001.recipe.toml":"b"}"#;

    #[test]
    fn sagemakers_files_say_who_is_who() {
        let (_folder, contract) = container(HOSTS, PARAMETERS);
        let contract = contract.unwrap();
        assert_eq!((contract.me, contract.hosts.join(" ").as_str()), (2, "algo-1 algo-2 algo-10"));
        assert_eq!(contract.files["recipe.toml"], "ab");
        let command = contract.command().join(" ");
        assert!(
            command.starts_with("mpirun --host algo-1:2,algo-2:2,algo-10:2 -n 6 ")
                && command.ends_with("hairpin train /tmp/hairpin/recipe.toml"),
            "{command}"
        );
        let alone = Contract { hosts: vec!["algo-1".into()], ranks_each: 1, ..contract };
        assert_eq!(alone.command()[0], "hairpin");
    }

    #[test]
    fn what_is_damaged_is_named() {
        for (resource, parameters) in [
            ("", PARAMETERS),
            ("{}", PARAMETERS),
            (&HOSTS.replace("\"algo-10\",\"current", "\"algo-7\",\"current"), PARAMETERS),
            (HOSTS, ""),
            (HOSTS, "{}"),
            (HOSTS, &PARAMETERS.replace("file.001", "file.002")),
            (HOSTS, r#"{"argv":"train"}"#),
        ] {
            assert!(matches!(container(resource, parameters).1, Err(LaunchError::Contract { .. })), "{resource} {parameters}");
        }
        assert!(Contract::read(Path::new("/nowhere"), &|_| None).is_err());
    }

    #[test]
    fn an_attempt_runs_once_and_says_how_it_ended() {
        let home = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(false);
        let argv = |text: &str| ["sh", "-c", text].map(str::to_owned).to_vec();
        let out = home.path().join("out");
        let count = format!("echo once >> {}; exit 3", out.display());
        assert_eq!(attempt(home.path(), 1, &argv(&count), &stop).unwrap(), 3);
        assert_eq!(attempt(home.path(), 1, &argv(&count), &stop).unwrap(), 3, "started twice, run once");
        assert_eq!(fs::read_to_string(&out).unwrap(), "once\n");
        assert_eq!(attempt(home.path(), 2, &argv("kill -9 $$"), &stop).unwrap(), 137);
        assert_eq!(attempt(home.path(), 3, &["no-such-program".into()], &stop).unwrap(), 3);
        let ready = home.path().join("ready");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ready.exists() {
                    std::thread::sleep(LOOK);
                }
                stop.store(true, Ordering::Relaxed);
            });
            let waits = format!("trap 'exit 7' TERM; touch {}; sleep 5 & wait", ready.display());
            assert_eq!(attempt(home.path(), 4, &argv(&waits), &stop).unwrap(), 7, "a wish to stop goes on to it");
        });
    }

    proptest! {
        #[test]
        fn no_container_panics(resource in ".*", parameters in ".*") {
            let _ = container(&resource, &parameters);
        }
    }
}
