//! What this machine is to hairpin: what its CPU has, which kernels that chooses and why, what they reach, and what would
//! make it faster. What the system does not tell is left out.

use std::{fs, process::ExitCode};

use ::train::{clock::Clock, recipe::PrecisionChoice};
use kernels::gemm::{Gemm, Mat, PackedRhs, Precision, Rhs};
use rayon::prelude::*;
use report::terminal::{bytes, table};
use serde::Serialize;

use crate::print;

/// Tell what this machine can do: CPU features, kernels chosen, measured peaks, and what would make it faster
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin doctor")]
pub(crate) struct DoctorArgs {}

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
struct Machine {
    cpu: Option<String>,
    /// Of those that kernels are written for.
    features: Vec<&'static str>,
    level: String,
    available: Vec<String>,
    /// Of `train.precision = "auto"`.
    is_bf16_chosen: bool,
    threads: usize,
    /// Processors of the machine, and the cores that they lie on.
    cpus: Option<usize>,
    cores: Option<usize>,
    /// Of the first processor, from the nearest on.
    caches: Vec<String>,
    memory_bytes: Option<u64>,
    free_bytes: Option<u64>,
    huge_pages: Option<String>,
    governor: Option<String>,
    /// Threads of others that ran or waited over the last minute.
    load: Option<f64>,
    is_debug_build: bool,
    gemm_f32_gflops: f64,
    gemm_bf16_gflops: f64,
    copy_gbytes_per_sec: f64,
    read_gbytes_per_sec: f64,
}

pub(crate) fn run(_args: &DoctorArgs, json: bool) -> miette::Result<ExitCode> {
    let machine = Machine::look();
    let advice = machine.advice();
    if json {
        #[derive(Serialize)]
        struct Told<'a> {
            #[serde(flatten)]
            machine: &'a Machine,
            why: [String; 2],
            advice: Vec<String>,
        }
        print::json(&Told { machine: &machine, why: machine.why(), advice })?;
        return Ok(ExitCode::SUCCESS);
    }
    print::result(&machine.table());
    let [kernels, precision] = machine.why();
    print::result(&format!("\nkernels: {kernels}\nprecision: {precision}\n"));
    if advice.is_empty() {
        print::result("nothing that hairpin knows of would make this machine faster");
    } else {
        print::result(&format!("what would make it faster:\n{}", advice.iter().map(|line| format!("· {line}\n")).collect::<String>()));
    }
    Ok(ExitCode::SUCCESS)
}

impl Machine {
    fn look() -> Self {
        let topology = |cpu: usize, what: &str| read(&format!("/sys/devices/system/cpu/cpu{cpu}/topology/{what}"));
        let cpus = read("/proc/cpuinfo").map(|text| text.lines().filter(|line| line.starts_with("processor")).count());
        let places = cpus.and_then(|cpus| {
            (0..cpus)
                .map(|cpu| Some((topology(cpu, "physical_package_id")?, topology(cpu, "core_id")?)))
                .collect::<Option<std::collections::HashSet<_>>>()
        });
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            features: features(),
            level: kernels::level().to_string(),
            available: kernels::available().iter().map(ToString::to_string).collect(),
            is_bf16_chosen: PrecisionChoice::Auto.resolve() == Precision::Bf16,
            threads: rayon::current_num_threads(),
            cpus: cpus.filter(|cpus| *cpus > 0),
            cores: places.map(|places| places.len()),
            caches: (0..8).map_while(cache).flatten().collect(),
            memory_bytes: field("/proc/meminfo", "MemTotal").and_then(|kb| Some(kb.trim_end_matches(" kB").parse::<u64>().ok()? << 10)),
            free_bytes: limits::available_bytes(),
            huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|modes| Some(modes.split_once('[')?.1.split_once(']')?.0.to_owned())),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            load: read("/proc/loadavg").and_then(|load| load.split(' ').next()?.parse().ok()),
            is_debug_build: cfg!(debug_assertions),
            gemm_f32_gflops: gemm_gflops(Precision::F32),
            gemm_bf16_gflops: gemm_gflops(Precision::Bf16),
            copy_gbytes_per_sec: copy_gbytes_per_sec(),
            read_gbytes_per_sec: read_gbytes_per_sec(),
        }
    }

    fn table(&self) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row = |name: &str, value: Option<String>| rows.extend(value.map(|value| vec![name.to_owned(), value]));
        row("CPU", self.cpu.clone());
        row("features", Some(self.features.join(" ")));
        let cores = self.cores.map(|cores| format!(" on {cores} cores")).unwrap_or_default();
        row("processors", self.cpus.map(|cpus| format!("{cpus}{cores}")));
        row("threads", Some(self.threads.to_string()));
        row("caches", (!self.caches.is_empty()).then(|| self.caches.join(", ")));
        let free = self.free_bytes.map(|free| format!("{} free of ", bytes(free))).unwrap_or_default();
        row("memory", self.memory_bytes.map(|all| format!("{free}{}", bytes(all))));
        row("huge pages", self.huge_pages.clone());
        row("governor", self.governor.clone());
        row("kernels", Some(self.level.clone()));
        row("of", Some(self.available.join(" ")));
        row("GEMM f32", Some(format!("{:.0} GFLOP/s", self.gemm_f32_gflops)));
        row("GEMM bf16", Some(format!("{:.0} GFLOP/s", self.gemm_bf16_gflops)));
        row("memory copy", Some(format!("{:.1} GB/s", self.copy_gbytes_per_sec)));
        row("memory read", Some(format!("{:.1} GB/s", self.read_gbytes_per_sec)));
        table(&["this machine", ""], &rows)
    }

    fn best(&self) -> &str {
        self.available.last().map_or("portable", String::as_str)
    }

    /// Why these kernels, and why this precision.
    fn why(&self) -> [String; 2] {
        let kernels = if self.level == self.best() {
            format!("`{}` is the highest level that this CPU has", self.level)
        } else {
            format!("HAIRPIN_KERNELS asks for `{}`", self.level)
        };
        let precision = match (self.is_bf16_chosen, self.level.as_str()) {
            (true, "amx") => "`auto` is bf16: matrix tiles multiply it many times as fast as f32",
            (true, _) => "`auto` is bf16: this CPU has two units for its dot product",
            (false, "avx512bf16") => "`auto` is f32: this CPU has one unit for the bf16 dot product beside two for f32",
            (false, _) => "`auto` is f32: these kernels have no instruction for bf16 and would convert",
        };
        [kernels, precision.to_owned()]
    }

    /// What to change, the most worthwhile first.
    fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        if self.is_debug_build {
            advice.push("this is a debug build: `cargo build --release`".to_owned());
        }
        if self.level != self.best() {
            advice.push(format!("unset HAIRPIN_KERNELS: `{}` would run", self.best()));
        }
        let ratio = self.gemm_bf16_gflops / self.gemm_f32_gflops;
        if !self.is_bf16_chosen && ratio > 1.2 {
            advice.push(format!("bf16 products are {ratio:.1}x as fast as f32 here: `train.precision = \"bf16\"`"));
        }
        if self.is_bf16_chosen && ratio < 1.0 {
            advice.push(format!("bf16 products reach {ratio:.2}x of f32 here: `train.precision = \"f32\"`"));
        }
        if let Some(cpus) = self.cpus.filter(|cpus| self.threads < self.cores.unwrap_or(*cpus)) {
            advice.push(format!(
                "{} threads on {cpus} processors: unset RAYON_NUM_THREADS, or look at the CPU limit or affinity of this process",
                self.threads
            ));
        }
        if let Some(load) = self.load.filter(|load| *load > 0.25 * self.threads as f64) {
            advice.push(format!("others keep {load:.1} threads busy: stop them, and measure again, for these peaks are what they leave"));
        }
        match self.huge_pages.as_deref() {
            Some("never") => advice.push(
                "huge pages are off, so that memory is touched in 4 KiB: `echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled`"
                    .to_owned(),
            ),
            None if cfg!(target_os = "linux") => advice.push("this kernel has no transparent huge pages".to_owned()),
            _ => {}
        }
        if let Some(governor) = self.governor.as_deref().filter(|governor| !matches!(*governor, "performance" | "schedutil")) {
            advice.push(format!("the clock's governor is `{governor}`: `sudo cpupower frequency-set -g performance`"));
        }
        if self.features.contains(&"amx_bf16") && self.best() != "amx" {
            advice.push("this CPU has matrix tiles (AMX) and the system does not give them: Linux 5.16 or newer does".to_owned());
        } else if cfg!(target_arch = "x86_64") && !self.features.contains(&"avx512_bf16") {
            advice.push(
                "this CPU has no bf16 instructions: Zen 4 or newer gains by them, and a step on the matrix tiles (AMX) of Sapphire Rapids or newer runs 2.4x as fast as in f32 (docs/BENCHMARKS.md)"
                    .to_owned(),
            );
        }
        advice
    }
}

/// What a file holds, without white space around it.
fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// What stands behind `name` and a colon.
fn field(path: &str, name: &str) -> Option<String> {
    read(path)?.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start().strip_prefix(':')?.trim().to_owned()))
}

/// The first processor's cache of that number; within it `None` where it holds instructions alone.
fn cache(index: usize) -> Option<Option<String>> {
    let of = |what: &str| read(&format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{what}"));
    let (level, size) = (of("level")?, of("size")?);
    Some((of("type")? != "Instruction").then(|| format!("L{level} {size}")))
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    let has = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512dq", is_x86_feature_detected!("avx512dq")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512_bf16", is_x86_feature_detected!("avx512bf16")),
        // Leaf 7, register edx: what the CPU has, whether or not the system gives it.
        ("amx_bf16", std::arch::x86_64::__cpuid_count(7, 0).edx & 1 << 22 != 0),
        ("amx_tile", std::arch::x86_64::__cpuid_count(7, 0).edx & 1 << 24 != 0),
    ];
    has.into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    if cfg!(target_arch = "aarch64") { vec!["neon"] } else { Vec::new() }
}

/// Best of a few products of 1024 cubed, the right side packed.
fn gemm_gflops(precision: Precision) -> f64 {
    const N: usize = 1024;
    let (a, b) = (kernels::naive::noise(1, N * N), kernels::naive::noise(2, N * N));
    let mut c = vec![0.0; N * N];
    let mut packed = PackedRhs::new(precision, N, N);
    packed.pack(Mat::rows(&b, N));
    let gemm = Gemm { m: N, n: N, k: N, precision, accumulate: false };
    2.0 * (N as f64).powi(3) / best_secs(8, || gemm.run(Mat::rows(&a, N), Rhs::<f32>::Packed(&packed), None, &mut c)) / 1e9
}

/// Numbers in the arrays that memory is measured with: far more than caches hold.
const LARGE: usize = 32 << 20;
const CHUNK: usize = 1 << 18;

/// Bytes read and written by a large copy, both counted.
pub(crate) fn copy_gbytes_per_sec() -> f64 {
    let (a, mut b) = (vec![1.0_f32; LARGE], vec![0.0_f32; LARGE]);
    let copy = || b.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).for_each(|(b, a)| b.copy_from_slice(a));
    8.0 * LARGE as f64 / best_secs(5, copy) / 1e9
}

fn read_gbytes_per_sec() -> f64 {
    let a = vec![1.0_f32; LARGE];
    4.0 * LARGE as f64 / best_secs(5, || _ = std::hint::black_box(kernels::elementwise::sum_squares(&a))) / 1e9
}

/// The shortest of some rounds, after one to warm up.
fn best_secs(rounds: usize, mut work: impl FnMut()) -> f64 {
    work();
    let time = || {
        let clock = Clock::start();
        work();
        clock.secs()
    };
    std::iter::repeat_with(time).take(rounds).fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Machine {
        Machine {
            features: vec!["avx2", "avx512_bf16"],
            level: "avx512bf16".into(),
            available: vec!["portable".into(), "avx2".into(), "avx512bf16".into()],
            is_bf16_chosen: true,
            threads: 8,
            cpus: Some(16),
            cores: Some(8),
            huge_pages: Some("madvise".into()),
            governor: Some("performance".into()),
            load: Some(0.2),
            gemm_f32_gflops: 100.0,
            gemm_bf16_gflops: 200.0,
            ..Machine::default()
        }
    }

    #[test]
    fn a_machine_in_order_needs_nothing_and_each_fault_is_named() {
        assert_eq!(good().advice(), Vec::<String>::new());
        let cases: [(&str, Machine); 9] = [
            ("debug build", Machine { is_debug_build: true, ..good() }),
            ("HAIRPIN_KERNELS", Machine { level: "avx2".into(), ..good() }),
            ("\"bf16\"", Machine { is_bf16_chosen: false, ..good() }),
            ("\"f32\"", Machine { gemm_bf16_gflops: 90.0, ..good() }),
            ("2 threads on 16", Machine { threads: 2, ..good() }),
            ("3.0 threads busy", Machine { load: Some(3.0), ..good() }),
            ("transparent_hugepage", Machine { huge_pages: Some("never".into()), ..good() }),
            ("powersave", Machine { governor: Some("powersave".into()), ..good() }),
            ("Linux 5.16", Machine { features: vec!["avx512_bf16", "amx_bf16"], ..good() }),
        ];
        for (word, machine) in cases {
            let advice = machine.advice();
            assert!(advice.len() == 1 && advice[0].contains(word), "{word}: {advice:?}");
        }
    }
}
