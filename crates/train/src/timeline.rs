//! What ranks did: one step of each as a timeline that Perfetto opens (`timeline.json`), and what all steps came to
//! (`ranks.json`), written by the first rank from what the others send.

use std::{
    cell::{Cell, RefCell},
    path::Path,
    rc::Rc,
    time::Instant,
};

use comm::{Group, Job, Span, Traffic};
use engine::{EngineError, Event};
use parallel::mesh::Place;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::TrainError;

/// A rank's run in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankReport {
    pub rank: usize,
    pub stage: usize,
    pub data: usize,
    pub context: usize,
    pub tensor: usize,
    pub steps: u64,
    pub secs: f64,
    pub used_bytes: u64,
    pub axes: Vec<AxisReport>,
}

/// What went along one axis of the mesh. Time exposed on `pipeline` is the bubble.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AxisReport {
    pub axis: String,
    pub sent_bytes: u64,
    pub busy_secs: f64,
    pub exposed_secs: f64,
}

impl RankReport {
    #[must_use]
    pub fn new(rank: usize, place: Place, steps: u64, secs: f64, used_bytes: u64, traffic: &[(&'static str, Traffic)]) -> Self {
        let axis = |(axis, t): &(&'static str, Traffic)| AxisReport {
            axis: (*axis).to_owned(),
            sent_bytes: t.sent_bytes,
            busy_secs: t.busy_secs,
            exposed_secs: t.exposed_secs,
        };
        let axes = traffic.iter().filter(|(_, t)| t.sent_bytes > 0 || t.exposed_secs > 0.0).map(axis).collect();
        let Place { stage, data, context, tensor } = place;
        Self { rank, stage, data, context, tensor, steps, secs, used_bytes, axes }
    }

    /// Seconds in which it waited for no other rank.
    #[must_use]
    pub fn compute_secs(&self) -> f64 {
        self.secs - self.axes.iter().map(|axis| axis.exposed_secs).sum::<f64>()
    }
}

/// Hears of each op while one step runs; cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder(Rc<Ops>);

struct Ops {
    began: Instant,
    last: Cell<Instant>,
    slices: RefCell<Vec<Slice>>,
}

/// A bar of the timeline; microseconds from the beginning of the rank's step.
#[derive(Serialize)]
struct Slice {
    name: String,
    track: &'static str,
    at_us: f64,
    us: f64,
}

impl Recorder {
    pub(crate) fn start() -> Self {
        let began = Instant::now();
        Self(Rc::new(Ops { began, last: Cell::new(began), slices: RefCell::default() }))
    }

    /// An op is done; it began when the one before was.
    pub(crate) fn op(&self, event: &Event) {
        let (now, before) = (Instant::now(), self.0.last.get());
        self.0.last.set(now);
        let place = event.block.map_or(String::new(), |block| format!(" in block {}", block.0));
        let name = format!("{} {}{place}", event.op, format!("{:?}", event.pass).to_lowercase());
        self.slice(name, "compute", before, (now - before).as_secs_f64());
    }

    /// Jobs of the groups along one axis.
    pub(crate) fn jobs(&self, axis: &'static str, spans: Vec<Span>) {
        for span in spans {
            self.slice(span.operation.to_owned(), axis, span.began, span.secs);
        }
    }

    /// All bars as a text, for [`write_timeline`].
    pub(crate) fn text(&self) -> String {
        serde_json::to_string(&*self.0.slices.borrow()).unwrap_or_default()
    }

    fn slice(&self, name: String, track: &'static str, began: Instant, secs: f64) {
        let at_us = began.saturating_duration_since(self.0.began).as_secs_f64() * 1e6;
        self.0.slices.borrow_mut().push(Slice { name, track, at_us, us: secs * 1e6 });
    }
}

/// Chrome's trace format, which Perfetto reads: a process for each rank, a track for its ops and for each axis.
pub(crate) fn write_timeline(path: &Path, ranks: &[String]) -> Result<(), TrainError> {
    let mut events = Vec::new();
    for (rank, text) in ranks.iter().enumerate() {
        events.push(json!({ "ph": "M", "name": "process_name", "pid": rank, "args": { "name": format!("rank {rank}") } }));
        let slices: Vec<serde_json::Value> = serde_json::from_str(text).unwrap_or_default();
        for s in slices {
            events.push(json!({ "ph": "X", "name": s["name"], "pid": rank, "tid": s["track"], "ts": s["at_us"], "dur": s["us"] }));
        }
    }
    write(path, &json!({ "traceEvents": events, "displayTimeUnit": "ms" }))
}

pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<(), TrainError> {
    let text = serde_json::to_string(value).map_err(|e| TrainError::io("write", path)(e.into()))?;
    disk::write(path, text).map_err(TrainError::io("write", path))
}

/// What ranks of a run came to, if it left word.
#[must_use]
pub fn read_ranks(folder: &Path) -> Vec<RankReport> {
    let text = disk::read_text(&folder.join("ranks.json"), 256 << 20).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Every rank's text, on the first; nothing on the others. A byte goes as a number.
pub(crate) fn gather_texts(world: &mut Group, text: String) -> Result<Vec<String>, EngineError> {
    let (rank, ranks) = (world.rank(), world.ranks());
    let mut run = |job| world.run(job).map(engine::Numbers::into_values).map_err(EngineError::rank);
    if rank > 0 {
        // Lengths beyond 2^24 are not exact in one f32.
        run(Job::Send(0, vec![(text.len() >> 16) as f32, (text.len() & 0xffff) as f32].into()))?;
        run(Job::Send(0, text.bytes().map(f32::from).collect::<Vec<_>>().into()))?;
        return Ok(Vec::new());
    }
    let mut texts = vec![text];
    for from in 1..ranks {
        let head = run(Job::Recv(from, 2))?;
        let bytes = run(Job::Recv(from, ((head[0] as usize) << 16) + head[1] as usize))?;
        texts.push(String::from_utf8_lossy(&bytes.into_iter().map(|byte| byte as u8).collect::<Vec<_>>()).into_owned());
    }
    Ok(texts)
}
