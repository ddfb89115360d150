//! What each rank of a run did: where its seconds went and how much it sent along each axis of the mesh.

use std::path::Path;

use maud::{Markup, html};
use train::timeline::{RankReport, read_ranks};

use crate::terminal::{bytes, secs};

/// The section of one run's folder; nothing where one rank did all.
pub(crate) fn section(title: &str, folder: &Path) -> Option<Markup> {
    let ranks = read_ranks(folder);
    if ranks.len() < 2 {
        return None;
    }
    let axes: Vec<&str> = ["data", "tensor", "context", "pipeline"]
        .into_iter()
        .filter(|axis| ranks.iter().any(|rank| rank.axes.iter().any(|a| a.axis == *axis)))
        .collect();
    let of = |rank: &RankReport, axis: &str| rank.axes.iter().find(|a| a.axis == axis).cloned();
    let share = |part: f64, rank: &RankReport| format!("{:.1}%", 100.0 * part / rank.secs.max(1e-9));
    let has_timeline = folder.join("timeline.json").is_file();
    Some(html! {
        section {
            h2 { "Ranks of " (title) }
            div.scroll { table {
                thead { tr {
                    th { "rank" } th { "stage" } th.n { "a step" } th.n { "memory" } th.n { "compute" }
                    @for axis in &axes {
                        th.n { @if *axis == "pipeline" { "bubble" } @else { "waits, " (axis) } }
                        th.n { "sent a step, " (axis) }
                    }
                } }
                tbody { @for rank in &ranks { tr {
                    td { (rank.rank) } td { (rank.stage) }
                    td.n { (secs(rank.secs / rank.steps.max(1) as f64)) }
                    td.n { (bytes(rank.used_bytes)) }
                    td.n { (share(rank.compute_secs(), rank)) }
                    @for axis in &axes {
                        @let a = of(rank, axis);
                        td.n { (a.as_ref().map_or("–".into(), |a| share(a.exposed_secs, rank))) }
                        td.n { (a.as_ref().map_or("–".into(), |a| bytes(a.sent_bytes / rank.steps.max(1)))) }
                    }
                } } }
            } }
            p.what {
                "Shares are of the time in steps; what hides behind compute is not waited for."
                @if has_timeline { " One step as a timeline: " code { (folder.join("timeline.json").display()) } ", for ui.perfetto.dev." }
            }
        }
    })
}
