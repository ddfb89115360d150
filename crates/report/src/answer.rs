//! One answer, of the planner or of a demo, in two forms: tables for a terminal, and an offline HTML page with charts and pictures.
//!
//! It holds text that is ready to be read: what is computed, and in which units, is settled before.

use std::path::Path;

use maud::{Markup, PreEscaped, html};

use crate::{ReportError, bars::Bars, chart::Chart, shell::shell, terminal};

/// See the head of this file. Parts that are empty are left out.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub title: String,
    /// What was understood of the question: name and value.
    pub asked: Vec<(&'static str, String)>,
    /// The answer in a few figures: what and value.
    pub figures: Vec<(&'static str, String)>,
    pub charts: Vec<(&'static str, Chart)>,
    pub bars: Vec<(&'static str, Bars)>,
    /// Pictures under their titles; a terminal shows none.
    pub pictures: Vec<(&'static str, Vec<Picture>)>,
    pub tables: Vec<Table>,
    /// Where figures come from, and what they leave out.
    pub notes: Vec<String>,
    pub warnings: Vec<String>,
}

/// One picture with what is to be read over and under it.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    pub title: String,
    pub text: String,
    /// The bytes of a PNG, which become part of the page.
    pub png: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
pub struct Table {
    pub title: &'static str,
    pub head: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

impl Answer {
    /// For a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("{}\n", self.title);
        let list =
            |pairs: &[(&'static str, String)]| pairs.iter().map(|(what, value)| format!("{what} {value}")).collect::<Vec<_>>().join(" · ");
        for pairs in [&self.asked, &self.figures] {
            if !pairs.is_empty() {
                out += &format!("{}\n", list(pairs));
            }
        }
        for table in &self.tables {
            out += &format!("\n{}\n{}", table.title, terminal::table(&table.head, &table.rows));
        }
        for (i, line) in self.warnings.iter().map(|w| format!("careful: {w}")).chain(self.notes.clone()).enumerate() {
            out += &format!("{}{line}\n", if i == 0 { "\n" } else { "" });
        }
        out
    }

    /// As a page that needs nothing else.
    #[must_use]
    pub fn page(&self) -> String {
        let main = html! {
            section.cards { @for (what, value) in &self.figures { div.card { p.value { (value) } p.what { (what) } } } }
            @for warning in &self.warnings { p.warn { "Careful: " (warning) "." } }
            @for (title, chart) in &self.charts {
                section { h2 { (title) } figure { (PreEscaped(chart.svg())) } }
            }
            @for (title, bars) in &self.bars {
                section { h2 { (title) } figure { (PreEscaped(bars.svg())) } }
            }
            @for (title, pictures) in &self.pictures { section {
                h2 { (title) }
                div.pictures { @for one in pictures { (picture(one)) } }
            } }
            @for table in &self.tables { (section(table)) }
            @if !self.asked.is_empty() { section {
                h2 { "What was asked" }
                div.scroll { table { tbody { @for (what, value) in &self.asked { tr { td { (what) } td { (value) } } } } } }
            } }
            @if !self.notes.is_empty() { section { h2 { "Notes" } ul { @for note in &self.notes { li { (note) } } } } }
        };
        shell("hairpin", &self.title, &main)
    }

    /// Write the page to `path`.
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), ReportError> {
        std::fs::write(path, self.page()).map_err(|source| ReportError::Io { path: path.to_owned(), source })
    }
}

/// A picture with what is to be read over and under it.
pub(crate) fn picture(picture: &Picture) -> Markup {
    html! {
        figure {
            figcaption { (picture.title) }
            img alt=(picture.title) src=(format!("data:image/png;base64,{}", base64::encode(&picture.png)));
            @if !picture.text.is_empty() { p.what { (picture.text) } }
        }
    }
}

/// A table under its title.
pub(crate) fn section(table: &Table) -> Markup {
    let is_number = |i: usize| terminal::is_of_figures(&table.rows, i);
    html! {
        section {
            h2 { (table.title) }
            div.scroll { table {
                thead { tr { @for (i, cell) in table.head.iter().enumerate() { th.n[is_number(i)] { (cell) } } } }
                tbody { @for row in &table.rows { tr { @for (i, cell) in row.iter().enumerate() { td.n[is_number(i)].whole[!cell.contains(' ')] { (cell) } } } } }
            } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::{Axis, Dot, DotKind};

    #[test]
    fn both_forms_say_the_same_and_nothing_is_loaded() {
        let dots = vec![Dot { name: "<i>".into(), x: 1.0, y: 2.0, kind: DotKind::Chosen }];
        let answer = Answer {
            title: "a & b".into(),
            asked: vec![("budget", "$2.00M".into())],
            figures: vec![("loss", "1.97".into())],
            charts: vec![("A chart", Chart { x: Axis::log("FLOP"), dots, ..Chart::default() })],
            bars: vec![("Parts", Bars { rows: vec![("compute".into(), 1.0, "90%".into())], full: None })],
            pictures: vec![("Seen", vec![Picture { title: "<i>x".into(), text: "said".into(), png: vec![1, 2, 3] }])],
            tables: vec![Table { title: "Choices", head: vec!["choice", "why"], rows: vec![vec!["one".into(), "<script>".into()]] }],
            notes: vec!["a note".into()],
            warnings: vec!["old".into()],
        };
        let (text, page) = (answer.text(), answer.page());
        for word in ["$2.00M", "1.97", "Choices", "one", "a note", "old"] {
            assert!(text.contains(word) && page.contains(word), "{word}");
        }
        assert!(page.contains("data:image/png;base64,AQID") && page.contains("said"));
        assert!(page.contains("a &amp; b") && !page.contains("<script>") && !page.contains("<i>") && !page.contains("http"));
    }
}
