//! The page, top to bottom: the headline, the ladder with its gates, curves, predicted against actual, samples, data.

use std::path::Path;

use data::{Stage, Stats};
use disk::printable_line;
use maud::{Markup, PreEscaped, html};
use train::{
    ledger::{self, Entry},
    metric::{Better, Metric, MetricKind},
    metrics::{self, StepMetrics},
};
use vision::prepare;

use crate::{
    ReportError,
    answer::section,
    chart::{Axis, Chart, Series},
    corpus, film, images, ranks,
    run::{self, Run},
    shell::shell,
    terminal::{bytes, count, secs},
};

/// Of a contact sheet.
const LARGEST_SHEET: u64 = 64 << 20;

/// The whole page for the project or the run in `folder`, and what is damaged there.
/// # Errors
/// When there is neither a ledger nor a run nor data.
pub(crate) fn page(folder: &Path) -> Result<(String, Vec<String>), ReportError> {
    let (all, torn) = ledger::read(&folder.join("ledger.jsonl"));
    let stats: Option<Stats> = disk::read_text(&folder.join("data/stats.json"), 64 << 20).ok().and_then(|t| serde_json::from_str(&t).ok());
    let images = prepare::manifest(&folder.join("data"));
    let mut alone = Run::read(folder);
    if all.is_empty() && torn == 0 && stats.is_none() && images.is_none() && alone.is_none() {
        return Err(ReportError::Empty { folder: folder.to_owned() });
    }
    // A phase that was climbed again counts as it went last.
    let mut entries: Vec<Entry> = Vec::new();
    for entry in all {
        entries.retain(|e| e.phase != entry.phase);
        entries.push(entry);
    }
    entries.sort_by_key(|e| e.phase);
    let mut damage = Vec::new();
    if torn > 0 {
        damage.push(format!("{torn} damaged lines of the ledger are left out"));
    }
    let mut curves: Vec<(String, Vec<StepMetrics>)> = Vec::new();
    for e in &entries {
        let (steps, damaged) = metrics::read(&e.folder.join("metrics.jsonl"));
        damage.extend(run::damaged_lines(&e.folder, damaged));
        curves.push((format!("{} {}", e.phase, e.name), steps));
    }
    if let Some(run) = &mut alone {
        damage.append(&mut run.damage);
    }
    let marks: Vec<(String, f64)> = entries.last().map(|e| (e.baseline_of.clone(), e.baseline)).into_iter().collect();
    let name = folder.canonicalize().ok().and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned())).unwrap_or_default();
    let main = html! {
        @if alone.is_none() { (headline(&entries)) }
        @for line in &damage { p.warn { "Careful: " (line) "." } }
        @if !entries.is_empty() {
            (ladder(&entries))
            (charts(ledger::unit(&entries), &marks, &curves))
            (ledger_table(&entries))
            (samples(&entries))
            @for e in &entries {
                @if let Some(section) = film::section(&format!("phase {} {}", e.phase, e.name), &e.folder) { (section) }
            }
            @for e in &entries {
                @if let Some(section) = ranks::section(&format!("phase {} {}", e.phase, e.name), &e.folder) { (section) }
            }
        }
        @if let Some(run) = &alone {
            section.cards { @for (value, what) in run.cards() { div.card { p.value { (value) } p.what { (what) } } } }
            @if !run.steps.is_empty() { (charts(run.unit, &[], &[("this run".to_owned(), run.steps.clone())])) }
            @if let Some(section) = film::section("this run", folder) { (section) }
            (run.checkpoints())
            @if let Some(section) = ranks::section("this run", folder) { (section) }
            (recipe("the run", folder))
        }
        @if let Some(stats) = &stats { (data_section(stats)) }
        @if let Some(manifest) = &images { (images::markup(manifest, disk::read(&folder.join("data").join(prepare::CONTACT), LARGEST_SHEET).ok())) }
        @if let Some(last) = entries.last() { (recipe(&format!("phase {} {}", last.phase, last.name), &last.folder)) }
    };
    Ok((shell("hairpin", &name, &main), damage))
}

fn headline(entries: &[Entry]) -> Markup {
    let last = entries.iter().rev().find_map(|e| Some((e, e.actual.held_out?)));
    let card = |value: String, what: &str| html! { div.card { p.value { (value) } p.what { (what) } } };
    html! {
        section.cards {
            @if let Some((entry, metric)) = last {
                (card(format!("{:.3}", metric.value), run::held_out(Some(metric))))
                (card(format!("{:.3}", entry.baseline), &format!("of {}", entry.baseline_of)))
                (card(count(entry.params), "parameters"))
                (card(count(entries.iter().map(|e| e.actual.tokens).sum()), &format!("{} trained on", ledger::unit(entries))))
                (card(secs(entries.iter().map(|e| e.actual.secs).sum()), "training time"))
            } @else {
                (card("none".into(), "no phase has ended yet"))
            }
        }
    }
}

fn ladder(entries: &[Entry]) -> Markup {
    html! {
        section {
            h2 { "The ladder" }
            @for e in entries {
                details open[!e.passed || e.phase == entries.len()] {
                    summary {
                        span class=(if e.passed { "badge ok" } else { "badge bad" }) { (if e.passed { "passed" } else { "failed" }) }
                        " " b { (e.phase) " " (e.name) } " · " (count(e.params)) " parameters · " (count(e.actual.tokens)) " " (e.unit) " · "
                        @if let Some(metric) = e.actual.held_out { (format!("{:.3} {}", metric.value, metric.kind.unit)) }
                    }
                    div.scroll { table {
                        thead { tr { th { "gate" } th { "measured" } th { "wanted" } } }
                        tbody { @for gate in &e.gates {
                            tr {
                                td { span class=(if gate.passed { "dot ok" } else { "dot bad" }) {} " " (gate.name) }
                                td { (gate.measured) }
                                td { (gate.wanted) @if !gate.passed { br; i { (gate.help) } } }
                            }
                        } }
                    } }
                }
            }
        }
    }
}

fn charts(unit: &str, marks: &[(String, f64)], curves: &[(String, Vec<StepMetrics>)]) -> Markup {
    let series = |value: &dyn Fn(&StepMetrics) -> Option<f64>| -> Vec<Series> {
        let one = |(name, steps): &(String, Vec<StepMetrics>)| Series {
            name: name.clone(),
            points: steps.iter().filter_map(|m| Some((m.step as f64, value(m)?))).collect(),
            is_faint: false,
        };
        curves.iter().map(one).filter(|s| !s.points.is_empty()).collect()
    };
    let over_steps = |y: &str, series: Vec<Series>, levels: &[(String, f64)]| {
        Chart { x: Axis::straight("step"), y: Axis::straight(y), series, levels: levels.to_vec(), ..Chart::default() }.svg()
    };
    // Of phases that are judged by different things, each thing by itself; the mark is of the last.
    let mut kinds: Vec<&MetricKind> = Vec::new();
    for metric in curves.iter().flat_map(|(_, steps)| steps).filter_map(|m| m.held_out) {
        kinds.retain(|kind| kind.name != metric.kind.name);
        kinds.push(metric.kind);
    }
    let held_out = |(i, kind): (usize, &&MetricKind)| {
        let title = if kind.better == Better::Lower { "Held-out loss".into() } else { format!("Held-out {}", kind.name.replace('_', " ")) };
        let of = |m: &StepMetrics| m.held_out.filter(|metric| metric.kind.name == kind.name).map(|metric| metric.value);
        (title, over_steps(kind.unit, series(&of), if i + 1 == kinds.len() { marks } else { &[] }))
    };
    let mut figures = vec![("Training loss".to_owned(), over_steps("loss", series(&|m| Some(f64::from(m.loss))), &[]))];
    figures.extend(kinds.iter().enumerate().map(held_out));
    let others = [
        ("Gradient norm", over_steps("norm", series(&|m| Some(f64::from(m.grad_norm))), &[])),
        ("Learning rate", over_steps("learning rate", series(&|m| Some(f64::from(m.lr))), &[])),
        ("Throughput", over_steps(&format!("{unit} per second"), series(&|m| Some(m.tokens_per_sec)), &[])),
    ];
    figures.extend(others.map(|(title, svg)| (title.to_owned(), svg)));
    // What feeds tell of their samples: rewards, divergence.
    let names: std::collections::BTreeSet<&String> = curves.iter().flat_map(|(_, steps)| steps).flat_map(|m| m.figures.keys()).collect();
    figures.extend(names.iter().map(|name| ((*name).clone(), over_steps(name, series(&|m| m.figures.get(*name).copied()), &[]))));
    html! {
        section {
            h2 { "Curves" }
            div.grid2 {
                @for (title, svg) in figures.iter().filter(|(_, svg)| !svg.is_empty()) {
                    figure { figcaption { (title) } (PreEscaped(svg)) }
                }
            }
        }
    }
}

fn ledger_table(entries: &[Entry]) -> Markup {
    let number = |metric: Option<Metric>| metric.map_or("–".to_owned(), |metric| format!("{:.3}", metric.value));
    let value = |metric: Option<Metric>| metric.map_or(0.0, |metric| metric.value);
    let interval = |i: Option<[f64; 2]>| i.map_or(String::new(), |[low, high]| format!(" ({low:.3} to {high:.3})"));
    let off =
        |predicted: f64, actual: f64| if predicted > 0.0 { format!("{:+.0}%", 100.0 * (actual / predicted - 1.0)) } else { "–".into() };
    html! {
        section {
            h2 { "Predicted and actual" }
            div.scroll { table {
                thead { tr { th { "phase" } th { "what" } th.n { "predicted" } th.n { "actual" } th.n { "off by" } } }
                tbody { @for e in entries {
                    tr { td { b { (e.phase) " " (e.name) } } td { (e.actual.held_out.or(e.predicted.held_out).map_or("loss", |metric| metric.kind.unit)) }
                        td.n { (number(e.predicted.held_out)) (interval(e.predicted.held_out_interval)) } td.n { (number(e.actual.held_out)) }
                        td.n { (off(value(e.predicted.held_out), value(e.actual.held_out))) } }
                    tr { td {} td { "training time" } td.n { (secs(e.predicted.secs)) } td.n { (secs(e.actual.secs)) } td.n { (off(e.predicted.secs, e.actual.secs)) } }
                    tr { td {} td { "memory of a step" } td.n { (bytes(e.predicted.memory_bytes)) } td.n { (bytes(e.actual.memory_bytes)) }
                        td.n { (off(e.predicted.memory_bytes as f64, e.actual.memory_bytes as f64)) } }
                    tr { td {} td { (e.unit) } td.n { (count(e.predicted.tokens)) } td.n { (count(e.actual.tokens)) } td.n { (off(e.predicted.tokens as f64, e.actual.tokens as f64)) } }
                } }
            } }
        }
    }
}

fn samples(entries: &[Entry]) -> Markup {
    html! {
        section {
            h2 { @if ledger::unit(entries) == "tokens" { "What it writes" } @else { "What it has learnt" } }
            div.grid2 {
                @if let Some(first) = entries.first().filter(|e| !e.sample_before.is_empty()) { figure { figcaption { "before training" } pre { (first.sample_before) } } }
                @for e in entries { figure { figcaption { "after phase " (e.phase) " " (e.name) } pre { (e.sample_after) } } }
            }
        }
    }
}

fn data_section(s: &Stats) -> Markup {
    let row = |what: &str, value: String| html! { tr { td { (what) } td.n { (value) } } };
    html! {
        section {
            h2 { "The data" }
            div.scroll { table { tbody {
                (row("vocabulary", count(s.vocab)))
                (row("bytes per token", format!("{:.2}", s.bytes_per_token)))
                (row("training tokens", count(s.train_tokens)))
                (row("held-out tokens", count(s.held_out_tokens)))
                @for (stage, s) in &s.secs { (row(&format!("time to {stage}"), secs(*s))) }
            } } }
        }
        @for warning in corpus::warnings(s) { p.warn { "Careful: " (warning) "." } }
        @for table in corpus::tables(s) { (section(&table)) }
        details { summary { "examples of what was not read or kept" } ul {
            @for stage in Stage::ALL { @for (reason, loss) in s.tally.losses(stage) { @for example in &loss.examples {
                li { (stage.title()) ": " (reason) ": " b { (printable_line(&example.name)) } " " (printable_line(&example.text)) }
            } } }
        } }
    }
}

fn recipe(of: &str, folder: &Path) -> Markup {
    let text = disk::read_text(&folder.join("recipe.toml"), 1 << 20).unwrap_or_default();
    html! {
        @if !text.is_empty() {
            section { details { summary { "Recipe of " (of) ", every default written out" } pre { (text) } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::*;

    /// The titles of sections, headings of tables and captions of a page, in their order: what a change of the page's structure changes.
    fn structure(html: &str) -> String {
        let mut lines = String::new();
        let mut rest = html;
        while let Some(at) = rest.find('<') {
            rest = &rest[at + 1..];
            let name = rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
            if ["h2", "h3", "th", "figcaption", "summary"].contains(&name)
                && let Some((_, body)) = rest.split_once('>')
                && let Some((body, _)) = body.split_once(&format!("</{name}>"))
            {
                let text: String = body
                    .split('<')
                    .enumerate()
                    .map(|(i, part)| if i == 0 { part } else { part.split_once('>').map_or("", |p| p.1) })
                    .collect();
                lines += &format!("{name} {}\n", text.trim());
            }
        }
        lines
    }

    #[test]
    fn an_empty_folder_is_refused_and_hostile_text_is_escaped() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(page(folder.path()), Err(ReportError::Empty { .. })));
        let entry = Entry {
            phase: 1,
            name: "<b>base".into(),
            folder: folder.path().join("nowhere"),
            params: 3,
            unix_secs: 0.0,
            predicted: ledger::Figures::default(),
            actual: ledger::Figures::default(),
            unit: "tokens".into(),
            baseline: 3.0,
            baseline_of: "a trigram".into(),
            gates: vec![],
            passed: false,
            samples: Vec::new(),
            sample_before: "<script>alert(1)</script>".into(),
            sample_after: "a & b".into(),
        };
        ledger::append(&folder.path().join("ledger.jsonl"), &entry).unwrap();
        let (html, _) = page(folder.path()).unwrap();
        assert!(!html.contains("<script>") && html.contains("&lt;script&gt;") && html.contains("a &amp; b"));
        assert!(!html.contains("http"), "nothing is loaded from elsewhere");
    }

    #[test]
    fn a_ladder_that_goes_on_with_feedback_is_counted_in_tokens_and_each_metric_has_its_own_chart() {
        train::metric::METRICS.add(MetricKind { name: "reward", unit: "mean reward", better: Better::Higher, divisor: 1.0 });
        let folder = tempfile::tempdir().unwrap();
        let phase = |phase: usize, name: &str, metric: &str, baseline_of: &str| {
            let run = folder.path().join(name);
            std::fs::create_dir(&run).unwrap();
            let line = |step: u64| {
                format!("{{\"step\":{step},\"loss\":2.5,\"grad_norm\":1.0,\"lr\":0.01,\"tokens_per_sec\":900.0,\"{metric}\":0.7}}\n")
            };
            std::fs::write(run.join("metrics.jsonl"), line(1) + &line(2)).unwrap();
            let figures = format!("{{\"{metric}\":0.7,\"secs\":1.0,\"memory_bytes\":1,\"tokens\":1000,\"flops\":1.0}}");
            format!(
                "{{\"phase\":{phase},\"name\":\"{name}\",\"folder\":{run:?},\"params\":3,\"unix_secs\":0.0,\"predicted\":{figures},\"actual\":{figures},\
                 \"unit\":\"tokens\",\"baseline\":0.5,\"baseline_of\":\"{baseline_of}\",\"gates\":[],\"passed\":true,\"sample_before\":\"\",\"sample_after\":\"\"}}\n"
            )
        };
        let lines = phase(1, "base", "bits_per_byte", "a trigram") + &phase(2, "policy", "reward", "the model that it began as");
        std::fs::write(folder.path().join("ledger.jsonl"), lines).unwrap();
        let (html, damage) = page(folder.path()).unwrap();
        assert!(damage.is_empty() && !html.contains("images"), "{damage:?}\n{html}");
        for want in
            ["tokens trained on", "1.0k tokens", "of the model that it began as", "Held-out loss", "Held-out reward", "tokens per second"]
        {
            assert!(html.contains(want), "{want}\n{html}");
        }
        expect_file!["../tests/golden/ladder.txt"].assert_eq(&structure(&html));
    }

    #[test]
    fn a_run_of_one_rank_has_a_page_and_what_is_damaged_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let line = |step: u64| format!("{{\"step\":{step},\"loss\":2.5,\"grad_norm\":1.0,\"lr\":0.01,\"tokens_per_sec\":900.0}}\n");
        let mut text = (line(1) + "{\"step\":2,\"lo\n").into_bytes();
        text.extend(b"\xff\xfe\n");
        text.extend((line(3) + &line(4)).into_bytes());
        std::fs::write(folder.path().join("metrics.jsonl"), text).unwrap();
        std::fs::create_dir(folder.path().join("step-00000004")).unwrap();
        let (html, damage) = page(folder.path()).unwrap();
        for want in ["2.5000", "Training loss", "Learning rate", "Gradient norm", "Throughput", "2 damaged lines of", "step-00000004"] {
            assert!(html.contains(want), "{want}\n{html}");
        }
        assert_eq!(damage.len(), 2, "{damage:?}");
        expect_file!["../tests/golden/run.txt"].assert_eq(&structure(&html));
    }
}
