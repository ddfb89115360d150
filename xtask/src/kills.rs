//! Kills at random moments: `data`, `train` on one rank, on two and on two processes of `mpirun`, the parts of feedback, and `climb`, each ended by SIGKILL
//! again and again and gone on with by the same command, beside the same work left alone. What comes has to be the same bits.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// One kind of work in a project's folder.
struct Work {
    name: &'static str,
    args: &'static [&'static str],
    /// What it needs, done before and not killed.
    before: &'static [&'static [&'static str]],
    /// Folders of what it makes, and how the names of the files begin that are compared; among checkpoints the last counts.
    makes: &'static [(&'static str, &'static str)],
}

const BASE: &[&str] = &["train", "r.toml", "--out", "base"];
const SAMPLE: &[&str] =
    &["align", "sample", "base", "--prompts", "prompts.txt", "--k", "3", "--tokens", "12", "--out", "made/responses.jsonl"];
const RANK: &[&str] = &["align", "rank", "made/responses.jsonl", "--by", "length=40", "--run", "base", "--out", "preferences.jsonl"];
const JUDGE: &[&str] =
    &["align", "judge", "base", "base", "--prompts", "prompts.txt", "--by", "length=40", "--tokens", "12", "--out", "judged"];

const ORIGINALS: &[&str] =
    &["align", "originals", "base", "--prompts", "prompts.txt", "--by", "length=40", "--tokens", "12", "--out", "kept"];

const WORKS: [Work; 10] = [
    Work { name: "data", args: &["data"], before: &[], makes: &[("data", "")] },
    Work {
        name: "train, 1 rank",
        args: &["train", "r.toml", "--out", "run", "--resume"],
        before: &[&["data"]],
        makes: &[("run", "tensors")],
    },
    Work {
        name: "train, 2 ranks",
        args: &["train", "r.toml", "--out", "run", "--resume", "--ranks", "2"],
        before: &[&["data"]],
        makes: &[("run", "tensors")],
    },
    Work {
        name: "train, 2 processes of mpirun",
        args: &["train", "r.toml", "--out", "run", "--resume"],
        before: &[&["data"]],
        makes: &[("run", "tensors")],
    },
    Work { name: "align sample", args: SAMPLE, before: &[&["data"], BASE], makes: &[("made", "")] },
    Work { name: "align originals", args: ORIGINALS, before: &[&["data"], BASE], makes: &[("kept", "")] },
    Work {
        name: "align reward model",
        args: &["train", "reward.toml", "--out", "reward", "--resume"],
        before: &[&["data"], BASE, SAMPLE, RANK],
        makes: &[("reward", "tensors")],
    },
    Work {
        name: "align ppo",
        args: &["train", "ppo.toml", "--out", "ppo", "--resume"],
        before: &[&["data"], BASE],
        makes: &[("ppo", "tensors"), ("ppo/rollouts", "")],
    },
    Work { name: "align judge", args: JUDGE, before: &[&["data"], BASE], makes: &[("judged", "")] },
    Work { name: "climb", args: &["climb"], before: &[&["data"]], makes: &[("phases/1-base", "tensors"), ("phases/2-next", "tensors")] },
];
const FOLDER: &str = "target/kills";
/// How long it took, and when each file was read.
const TELL_OF_TIME: [&str; 2] = ["stats.json", "sources.jsonl"];
/// In one project; then it is left to end.
const MOST_KILLS: usize = 12;

/// `cargo xtask kills N [PART]`: about `wanted` kills, as many of each kind whose name begins with `part`.
pub(crate) fn run(wanted: &str, part: &str) -> Result<(), String> {
    let wanted: usize = wanted.parse().map_err(|_| format!("`{wanted}` is no number of kills"))?;
    let works: Vec<&Work> = WORKS.iter().filter(|work| work.name.starts_with(part)).collect();
    if works.is_empty() {
        return Err(format!("no work begins with `{part}`: {}", WORKS.map(|work| work.name).join(", ")));
    }
    let hairpin = crate::hairpin(&["--features", "mpi"])?;
    println!("| what | projects | kills | projects with the bits of one left alone |\n|---|---|---|---|");
    let (mut random, mut all, mut differing) = (Random(1), 0, 0);
    for work in works.iter().copied() {
        let (mut projects, mut kills, mut same) = (0, 0, 0);
        while kills < wanted.div_ceil(works.len()) {
            projects += 1;
            let (count, is_same) = project(&hairpin, work, projects, &mut random)?;
            kills += count;
            same += usize::from(is_same);
        }
        println!("| {} | {projects} | {kills} | {same} |", work.name);
        all += kills;
        differing += projects as usize - same;
    }
    println!("\n{all} kills");
    if differing > 0 { Err(format!("{differing} projects have other bits: see {FOLDER}")) } else { Ok(()) }
}

/// A fresh project, once left alone and once killed: how often, and whether both have the same bits.
fn project(hairpin: &Path, work: &Work, seed: u64, random: &mut Random) -> Result<(usize, bool), String> {
    let place = std::env::current_dir().map_err(text)?.join(FOLDER).join(format!("{}-{seed}", work.name.replace([',', ' '], "")));
    let _ = fs::remove_dir_all(&place);
    let [alone, killed] = ["alone", "killed"].map(|name| place.join(name));
    for folder in [&alone, &killed] {
        write(folder, &place.join("corpus"), seed).map_err(text)?;
        for args in work.before {
            ended(start(hairpin, args, false, folder)?.wait().map_err(text)?)?;
        }
    }
    let (since, is_mpi) = (Instant::now(), work.name.contains("mpirun"));
    let code = ended(start(hairpin, work.args, is_mpi, &alone)?.wait().map_err(text)?)?;
    let whole = since.elapsed();
    let mut kills = 0;
    while kills < MOST_KILLS {
        let mut child = start(hairpin, work.args, is_mpi, &killed)?;
        std::thread::sleep(Duration::from_secs_f64(random.share() * whole.as_secs_f64()));
        if child.try_wait().map_err(text)?.is_some() {
            break;
        }
        kill_all_in(&killed)?;
        if child.wait().map_err(text)?.code().is_some() {
            break;
        }
        kills += 1;
    }
    let end = ended(start(hairpin, work.args, is_mpi, &killed)?.wait().map_err(text)?)?;
    let bits = |folder: &Path| work.makes.iter().map(|(made, begins)| files(&folder.join(made), begins)).collect::<Result<Vec<_>, _>>();
    let (want, got) = (bits(&alone)?, bits(&killed)?);
    if want.iter().all(Vec::is_empty) {
        return Err(format!("nothing to compare in {}", alone.display()));
    }
    let is_same = code == end && want == got;
    if is_same {
        fs::remove_dir_all(&place).map_err(text)?;
    }
    Ok((kills, is_same))
}

fn start(hairpin: &Path, args: &[&str], is_mpi: bool, folder: &Path) -> Result<std::process::Child, String> {
    let mut command = Command::new(if is_mpi { Path::new("mpirun") } else { hairpin });
    if is_mpi {
        command.args(["--allow-run-as-root", "--oversubscribe", "-n", "2"]).arg(hairpin);
    }
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log.txt")).map_err(text)?;
    command.args(args).current_dir(folder).stdout(Stdio::null()).stderr(log).spawn().map_err(text)
}

/// SIGKILL to every process that works in `folder`, until there is none: `mpirun` and what it started are no group.
fn kill_all_in(folder: &Path) -> Result<(), String> {
    let folder = folder.canonicalize().map_err(text)?;
    loop {
        let entries = fs::read_dir("/proc").map_err(text)?.flatten();
        let is_here = |path: &PathBuf| fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd == folder);
        let is_dead = |path: &PathBuf| fs::read_to_string(path.join("stat")).is_ok_and(|stat| stat.contains(") Z "));
        let here: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| is_here(path) && !is_dead(path)).collect();
        if here.is_empty() {
            return Ok(());
        }
        let numbers = here.iter().filter_map(|path| path.file_name());
        // One that has ended by itself meanwhile is no error.
        let _ = Command::new("kill").arg("-KILL").args(numbers).stderr(Stdio::null()).status();
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The code of work that came to its end: a failed gate is one.
fn ended(status: ExitStatus) -> Result<i32, String> {
    status.code().filter(|code| matches!(code, 0 | 1)).ok_or_else(|| format!("work that was left alone failed with {status}: see {FOLDER}"))
}

/// Name and bytes of the files of `folder`, or of the last checkpoint in it, whose names begin so; what tells of time is left out,
/// and after a failed gate there is no next phase.
pub(crate) fn files(folder: &Path, begins: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
    let list = |folder: &Path| -> Result<Vec<PathBuf>, String> {
        let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        Ok(paths)
    };
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let is_checkpoint = |path: &&PathBuf| name(path).starts_with("step-") && path.is_dir();
    let all = if folder.is_dir() { list(folder)? } else { Vec::new() };
    let all = match all.iter().rfind(is_checkpoint) {
        Some(last) => list(last)?,
        // Parts that are published whole stand in folders of their own, in the order of their names.
        None => {
            let parts = all.iter().filter(|path| path.is_dir() && name(path).starts_with("part-")).map(|path| list(path));
            let parts = parts.collect::<Result<Vec<_>, _>>()?;
            all.into_iter().chain(parts.into_iter().flatten()).collect()
        }
    };
    // Who works there holds a lock, and what it leaves behind is nobody's work.
    let is_lock = |path: &Path| path.extension().is_some_and(|ext| ext == "lock");
    let is_wanted =
        |path: &PathBuf| path.is_file() && name(path).starts_with(begins) && !is_lock(path) && !TELL_OF_TIME.contains(&name(path).as_str());
    let files = all.into_iter().filter(is_wanted).map(|path| Ok((name(&path), fs::read(&path).map_err(text)?)));
    files.collect()
}

/// Text with something to learn, a project of two phases over it, and a recipe.
fn write(folder: &Path, corpus: &Path, seed: u64) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::create_dir_all(corpus)?;
    let mut random = Random(seed);
    for document in 0..160 {
        let mut text = String::new();
        for _ in 0..40 {
            let mut pick = |words: &[&str]| words[(random.next() % words.len() as u64) as usize].to_owned();
            let subject = pick(&["the road", "a river", "every model", "the old bridge", "one traveller"]);
            let verb = pick(&["turns", "waits", "climbs", "remembers", "falls"]);
            let place = pick(&["beyond the hill", "near the water", "under a long sky", "before the last bend"]);
            text += &format!("{subject} {verb} {place}, and {} of {document} go on.\n", random.next() % 1024);
        }
        fs::write(corpus.join(format!("{document:03}.txt")), text)?;
    }
    let project = format!(
        "name = \"kills\"\n[data]\nheld_out_ratio = 0.1\ntokenizer = {{ kind = \"train\", vocab = 320 }}\n[data.corpus]\npaths = [{:?}]\n\
         [data.clean]\noff = [\"repeated_ngram\"]\n\
         [recipe]\nbatch = {{ sequences = 4, micro_batch = 4, context = 32 }}\nschedule = {{ warmup_steps = 5 }}\n\
         eval = {{ every_steps = 20, windows = 8 }}\ncheckpoint = {{ every_steps = 10 }}\noptim = {{ lr = 0.01 }}\n\
         [[phases]]\nname = \"base\"\ndata_fraction = 0.3\nrecipe = {{ model = {{ depth = 1 }}, train = {{ steps = 60 }} }}\n\
         [[phases]]\nname = \"next\"\ndata_fraction = 1.0\nrecipe = {{ model = {{ depth = 2 }}, train = {{ steps = 60 }} }}\n",
        corpus.display().to_string()
    );
    fs::write(folder.join("hairpin.toml"), project)?;
    let recipe = format!(
        "seed = {seed}\n[model]\ndepth = 1\n[batch]\nsequences = 4\nmicro_batch = 2\nlanes = 2\ncontext = 32\n[train]\nsteps = 60\n\
         [checkpoint]\nevery_steps = 7\n[eval]\nevery_steps = 30\nwindows = 4\n"
    );
    fs::write(folder.join("r.toml"), recipe)?;
    let prompts: String = (0..64)
        .map(|i| format!("the road {}\n", ["turns", "waits", "climbs", "falls"][i % 4].to_owned() + &" and".repeat(i / 4)))
        .collect();
    fs::write(folder.join("prompts.txt"), prompts)?;
    fs::create_dir_all(folder.join("made"))?;
    let feedback = |objective: &str| {
        format!(
            "seed = {seed}\n[model]\n[from]\npath = \"base\"\n[objective]\n{objective}\nheld_out_ratio = 0.2\n[batch]\nsequences = 8\nmicro_batch = 4\n\
             lanes = 2\ncontext = 32\n[train]\nsteps = 40\n[checkpoint]\nevery_steps = 3\n[eval]\nevery_steps = 20\nwindows = 8\n[guard]\naction = \"off\"\n"
        )
    };
    fs::write(folder.join("reward.toml"), feedback("kind = \"reward\"\npreferences = \"preferences.jsonl\"\nk = 3"))?;
    let ppo = "kind = \"ppo\"\nprompts = \"prompts.txt\"\nresponse_tokens = 8\nrollouts = 16\nreward = { kind = \"signal\", name = \"length\", chars = 20 }\n\
               pretrain_data = \"data\"\npretrain_coef = 0.1";
    fs::write(folder.join("ppo.toml"), feedback(ppo))
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

/// SplitMix64.
pub(crate) struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In 0..1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
