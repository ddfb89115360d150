//! Progress on stderr: bars with rate and time left on a terminal, a line now and then where there is none.

use std::{
    io::IsTerminal,
    sync::{Mutex, atomic::Ordering},
};

use indicatif::{ProgressBar, ProgressStyle};
use train::{clock::Clock, metrics::StepMetrics, run::Observer};

use crate::{STOP, print};

/// Follows data and training.
pub(crate) struct Follow {
    bar: Mutex<Option<ProgressBar>>,
    is_terminal: bool,
    last_line: Clock,
}

impl Follow {
    pub fn new() -> Self {
        Self { bar: Mutex::default(), is_terminal: std::io::stderr().is_terminal(), last_line: Clock::start() }
    }

    /// Shares the terminal with the follower of training.
    fn begin(&self, total: u64, template: &str, name: &str) {
        let bar = if self.is_terminal { ProgressBar::new(total) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━━╌"));
        }
        bar.set_prefix(name.to_owned());
        if let Ok(mut slot) = self.bar.lock()
            && let Some(old) = slot.replace(bar)
        {
            old.finish_and_clear();
        }
    }

    fn with_bar(&self, run: impl FnOnce(&ProgressBar)) {
        if let Ok(slot) = self.bar.lock()
            && let Some(bar) = slot.as_ref()
        {
            run(bar);
        }
    }

    pub fn end(&self) {
        self.with_bar(ProgressBar::finish_and_clear);
    }

    fn line(&self, text: &str) {
        if self.is_terminal { self.with_bar(|bar| bar.suspend(|| print::talk(text))) } else { print::talk(text) }
    }
}

impl data::Progress for Follow {
    fn stage(&self, name: &'static str, total: u64) {
        if !self.is_terminal {
            print::talk(&format!("data: {name}"));
        }
        self.begin(total, "{prefix:>22} {bar:30} {percent:>3}%  {eta} left", name);
    }
    fn advance(&self, count: u64) {
        self.with_bar(|bar| bar.inc(count));
    }
    fn cancelled(&self) -> bool {
        STOP.load(Ordering::Relaxed)
    }
}

impl Observer for Follow {
    fn step(&mut self, m: &StepMetrics, steps: u64) {
        let bits = m.bits_per_byte.map_or(String::new(), |b| format!("  held-out {b:.3} bits per byte"));
        let text = format!("loss {:.3}  {:.0} tokens/s", m.loss, m.tokens_per_sec);
        if self.is_terminal {
            let is_new =
                self.bar.lock().is_ok_and(|slot| slot.as_ref().is_none_or(|bar| bar.length() != Some(steps) || bar.prefix() != "step"));
            if is_new {
                self.begin(steps, "{prefix:>22} {bar:30} {pos}/{len}  {msg}  {eta} left", "step");
            }
            self.with_bar(|bar| {
                bar.set_position(m.step);
                bar.set_message(text.clone());
            });
            if !bits.is_empty() {
                self.line(&format!("  step {:>5}  {text}{bits}", m.step));
            }
        } else if !bits.is_empty() || m.step == 1 || m.step == steps || self.last_line.secs() > 10.0 {
            self.last_line = Clock::start();
            print::talk(&format!("  step {:>5} of {steps}  {text}{bits}", m.step));
        }
    }
    fn note(&mut self, text: &str) {
        self.line(text);
    }
    fn phase(&mut self, title: &str) {
        self.end();
        self.line(&format!("\n{title}"));
    }
}
