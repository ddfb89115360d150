//! What became of a corpus, in tables: by kind of file what was read and kept, by reason what was not.

use data::{Stage, Stats};
use disk::printable_line;

use crate::{
    Table,
    terminal::{bytes, count, table},
};

/// Kinds of files, and what was lost; the second is left out where nothing was.
pub(crate) fn tables(stats: &Stats) -> Vec<Table> {
    let tally = &stats.tally;
    let mut kinds: Vec<_> = tally.kinds.iter().collect();
    kinds.sort_by_key(|(name, kind)| (std::cmp::Reverse(kind.bytes_read), *name));
    let row = |name: String, files: u64, read: u64, read_bytes: u64, kept: u64, kept_bytes: u64| {
        vec![name, count(files), count(read), bytes(read_bytes), count(kept), bytes(kept_bytes)]
    };
    let mut rows: Vec<Vec<String>> = kinds
        .into_iter()
        .map(|(name, k)| row(printable_line(name).into_owned(), k.files, k.documents_read, k.bytes_read, k.documents_kept, k.bytes_kept))
        .collect();
    if rows.len() != 1 {
        rows.push(row("all".into(), tally.files, tally.documents_read, tally.bytes_read, tally.documents_kept, tally.bytes_kept));
    }
    let kinds = Table { title: "What was read", head: vec!["kind of file", "files", "documents", "text", "kept", "text kept"], rows };
    let mut rows = Vec::new();
    for stage in Stage::ALL {
        let mut losses: Vec<_> = tally.losses(stage).iter().collect();
        losses.sort_by_key(|(reason, loss)| (std::cmp::Reverse(loss.count), *reason));
        for (reason, loss) in losses {
            let size = if loss.bytes > 0 { bytes(loss.bytes) } else { String::new() };
            let first = loss.examples.first().map_or(String::new(), |e| shortened(&printable_line(&e.name)));
            let reason = printable_line(reason).into_owned();
            rows.push(vec![format!("{}: {reason}", stage.title()), count(loss.count), size, stage.unit().into(), first]);
        }
    }
    let mut tables = vec![kinds];
    if !rows.is_empty() {
        tables.push(Table { title: "What was not", head: vec!["why", "count", "size", "of", "as"], rows });
    }
    tables
}

/// What the user should not miss: limits that took something away, rows without the column, settings of a tokenizer.
pub(crate) fn warnings(stats: &Stats) -> Vec<String> {
    let tally = &stats.tally;
    let mut warnings = Vec::new();
    if let Some(loss) = tally.left_out.get("max_total_bytes") {
        let all = tally.files + loss.count;
        warnings.push(format!("{} of {all} files ({}) were left out: `corpus.max_total_bytes`", loss.count, bytes(loss.bytes)));
    }
    if let Some(loss) = tally.faults.get("no_column") {
        let others = tally.other_columns();
        let others = others.iter().map(|name| format!("`{}`", printable_line(name))).collect::<Vec<_>>().join(", ");
        let others = if others.is_empty() { String::new() } else { format!("; there are {others}: try `corpus.text_column`") };
        warnings.push(format!("{} rows lack the column of text{others}", loss.count));
    }
    warnings.extend(stats.notes.iter().cloned());
    warnings
}

/// For a terminal, with what came of it.
#[must_use]
pub fn text(stats: &Stats) -> String {
    let mut out = String::new();
    for Table { head, rows, .. } in tables(stats) {
        out += &format!("{}\n", table(&head, &rows));
    }
    out += &table(
        &["tokens", "count", ""],
        &[
            vec!["training".into(), count(stats.train_tokens), format!("{:.2} bytes each", stats.bytes_per_token)],
            vec!["held out".into(), count(stats.held_out_tokens), format!("{} documents", count(stats.held_out_documents))],
        ],
    );
    for warning in warnings(stats) {
        out += &format!("careful: {warning}\n");
    }
    out
}

/// The end of a long name, which tells more than its beginning.
fn shortened(name: &str) -> String {
    const CHARS: usize = 40;
    let chars = name.chars().count();
    if chars <= CHARS { name.to_owned() } else { format!("…{}", name.chars().skip(chars - CHARS + 1).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_shown_and_no_name_steers_the_terminal() {
        let mut stats = Stats::default();
        let loss =
            |count, name: &str| data::Loss { count, bytes: 5, examples: vec![data::Example { name: name.into(), text: String::new() }] };
        stats.tally.files = 25;
        stats.tally.left_out.insert("max_total_bytes".into(), loss(15, "\u{1b}[2Jb.txt"));
        stats.tally.faults.insert("no_column".into(), loss(20, "a.jsonl:1"));
        stats.tally.columns.insert("content".into(), 20);
        let text = text(&stats);
        for want in [
            "left out: max_total_bytes",
            "bad input: no_column",
            "careful: 15 of 40 files (5 B) were left out: `corpus.max_total_bytes`",
            "there are `content`",
        ] {
            assert!(text.contains(want), "{want}\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
