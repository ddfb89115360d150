//! Progress on stderr: a bar with rate and time left on a terminal; where there is none, a line whenever nothing was said
//! for ten seconds, whatever the work is and however long a piece of it takes.
//!
//! **Invariant:** there is one piece of work at a time; whoever begins the next ends the one before.

use std::{
    io::IsTerminal,
    sync::{
        Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use report::terminal::{count, secs};
use train::{clock::Clock, metrics::StepMetrics, run::Observer};

use crate::{SAVES, STOP, talk::talk};

/// Longest silence where there is no terminal.
const SILENCE_SECS: f64 = 10.0;
/// How long work that is asked to stop may take for it, where a kill costs nothing that was finished.
const STOP_WITHIN: Duration = Duration::from_secs(4);

/// What is being done.
struct Work {
    name: String,
    done: u64,
    /// 0 where nobody knows.
    total: u64,
    since: Clock,
    bar: ProgressBar,
    /// Its state is worth a checkpoint, which may take longer than [`STOP_WITHIN`].
    is_training: bool,
}

struct Now {
    work: Option<Work>,
    /// When something was said last.
    said: Option<Clock>,
}

/// Whether whoever is at work looks at [`STOP`] often and ends by itself.
pub(crate) static ENDS_ITSELF: AtomicBool = AtomicBool::new(false);

static NOW: Mutex<Now> = Mutex::new(Now { work: None, said: None });

fn now() -> MutexGuard<'static, Now> {
    NOW.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows data and training, and looks for a wish to stop.
pub(crate) struct Follow;

impl Follow {
    pub fn new() -> Self {
        SAVES.store(true, Ordering::Relaxed);
        Self
    }

    pub fn end(&self) {
        SAVES.store(false, Ordering::Relaxed);
        end();
    }
}

/// Show that something is at work, until [`end`], the next work or the first result; of work that may be ended at any moment.
pub(crate) fn busy(name: &str) {
    begin(name, 0, "{spinner} {prefix}  {elapsed}", false);
}

/// A signal has come, the first: say what happens, and see to it that it does.
pub(crate) fn asked_to_stop() {
    if ENDS_ITSELF.load(Ordering::Relaxed) {
        return;
    }
    std::thread::sleep(Duration::from_millis(500));
    if now().work.as_ref().is_some_and(|work| work.is_training) {
        line("stopping: this step is finished and saved first; a second Ctrl-C ends at once");
    }
    std::thread::sleep(STOP_WITHIN.saturating_sub(Duration::from_millis(500)));
    if !now().work.as_ref().is_some_and(|work| work.is_training) {
        talk("stopped; nothing finished was lost, and the same command goes on from here");
        crate::end_at_once(3);
    }
}

fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

fn begin(name: &str, total: u64, template: &str, is_training: bool) {
    let bar = if is_terminal() { ProgressBar::new(total) } else { ProgressBar::hidden() };
    let rate = |state: &ProgressState, to: &mut dyn std::fmt::Write| _ = write!(to, "{}/s", count(state.per_sec() as u64));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━━╌").with_key("rate", rate));
    }
    bar.set_prefix(disk::printable_line(name).into_owned());
    if is_terminal() {
        // Also where a single piece takes long.
        bar.enable_steady_tick(Duration::from_millis(200));
    } else {
        static WATCH: Once = Once::new();
        WATCH.call_once(|| _ = std::thread::Builder::new().name("progress".into()).spawn(watch));
    }
    let mut now = now();
    let work = Work { name: name.to_owned(), done: 0, total, since: Clock::start(), bar, is_training };
    if let Some(old) = now.work.replace(work) {
        old.bar.finish_and_clear();
    }
    now.said.get_or_insert_with(Clock::start);
}

/// The work is done; nothing where there was none.
pub(crate) fn end() {
    if let Some(old) = now().work.take() {
        old.bar.finish_and_clear();
    }
}

/// Above the bar.
fn line(text: &str) {
    let mut now = now();
    now.said = Some(Clock::start());
    match &now.work {
        Some(work) if is_terminal() => work.bar.suspend(|| talk(text)),
        _ => talk(text),
    }
}

/// Where there is no terminal.
fn watch() {
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let text = {
            let now = now();
            let is_silent = now.said.as_ref().is_some_and(|said| said.secs() >= SILENCE_SECS);
            now.work.as_ref().filter(|_| is_silent).map(Work::text)
        };
        if let Some(text) = text {
            line(&text);
        }
    }
}

impl Work {
    fn text(&self) -> String {
        let (took, rate) = (self.since.secs(), self.done as f64 / self.since.secs());
        let mut text = format!("  {}", self.name);
        if self.total > 0 {
            text += &format!(": {} of {}", count(self.done), count(self.total));
        }
        text += &format!(", {} so far", secs(took));
        if self.done > 0 && self.done < self.total {
            text += &format!(", {}/s, {} left", count(rate as u64), secs((self.total - self.done) as f64 / rate));
        }
        text
    }
}

impl data::Progress for Follow {
    fn stage(&self, name: &'static str, total: u64) {
        if !is_terminal() {
            line(&format!("data: {name}"));
        }
        begin(name, total, "{prefix:>22} {bar:30} {percent:>3}%  {rate}  {elapsed} gone, {eta} left", false);
    }
    fn advance(&self, count: u64) {
        if let Some(work) = &mut now().work {
            work.done += count;
            work.bar.inc(count);
        }
    }
    fn cancelled(&self) -> bool {
        STOP.load(Ordering::Relaxed)
    }
}

impl Observer for Follow {
    fn step(&mut self, m: &StepMetrics, steps: u64) {
        let bits = m.held_out.map_or(String::new(), |metric| format!("  held-out {:.3} {}", metric.value, metric.kind.unit));
        let text = format!("loss {:.3}  {:.0} tokens/s", m.loss, m.tokens_per_sec);
        if !now().work.as_ref().is_some_and(|work| work.is_training && work.total == steps) {
            begin("step", steps, "{prefix:>22} {bar:30} {pos}/{len}  {msg}  {eta} left", true);
        }
        if let Some(work) = &mut now().work {
            work.done = m.step;
            work.bar.set_position(m.step);
            work.bar.set_message(text.clone());
        }
        let is_due = || now().said.as_ref().is_none_or(|said| said.secs() > SILENCE_SECS);
        if !bits.is_empty() {
            line(&format!("  step {:>5} of {steps}  {text}{bits}", m.step));
        } else if !is_terminal() && (m.step == 1 || m.step == steps || is_due()) {
            line(&format!("  step {:>5} of {steps}  {text}", m.step));
        }
    }
    fn note(&mut self, text: &str) {
        line(text);
    }
    fn phase(&mut self, title: &str) {
        end();
        line(&format!("\n{title}"));
    }
}
