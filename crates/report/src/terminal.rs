//! Tables for terminals: pure functions from cells to text.

/// Whether the cells of column `i` are figures, which stand to the right; the first column never is.
pub(crate) fn is_of_figures(rows: &[Vec<String>], i: usize) -> bool {
    let begins = |cell: &String| cell.is_empty() || cell.starts_with(|c: char| c.is_ascii_digit() || "$+-–".contains(c));
    i > 0 && rows.iter().all(|row| row.get(i).is_none_or(begins))
}

/// Columns aligned, words to the left and figures to the right; a rule under the head.
#[must_use]
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |s: &str| s.chars().count();
    let columns = head.len();
    let mut widths: Vec<usize> = head.iter().map(|h| width(h)).collect();
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(width(cell));
        }
    }
    let figures: Vec<bool> = (0..columns).map(|i| is_of_figures(rows, i)).collect();
    let line = |cells: Vec<&str>| {
        let mut out = String::new();
        for (i, cell) in cells.into_iter().enumerate().take(columns) {
            let pad = " ".repeat(widths[i] - width(cell));
            let gap = if i == 0 { "" } else { "  " };
            out += &if figures[i] { format!("{gap}{pad}{cell}") } else { format!("{gap}{cell}{pad}") };
        }
        out.trim_end().to_owned() + "\n"
    };
    let mut out = line(head.to_vec());
    let total = widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1);
    out += &("─".repeat(total) + "\n");
    for row in rows {
        out += &line(row.iter().map(String::as_str).collect());
    }
    out
}

/// `1.5 GiB`
#[must_use]
pub fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (n.max(1).ilog2() / 10).min(4);
    if power == 0 {
        format!("{n} B")
    } else {
        format!("{:.1} {}", n as f64 / f64::from(1 << (10 * power.min(3))) / if power == 4 { 1024.0 } else { 1.0 }, units[power as usize])
    }
}

/// `12.3M`
#[must_use]
pub fn count(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1}k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2}M", n as f64 / 1e6),
        1_000_000_000..1_000_000_000_000 => format!("{:.2}B", n as f64 / 1e9),
        _ => format!("{:.2}T", n as f64 / 1e12),
    }
}

/// `$12.3k`
#[must_use]
pub fn usd(usd: f64) -> String {
    if usd > 0.0 && usd < 0.005 {
        "under 1 cent".into()
    } else if usd < 1000.0 {
        format!("${usd:.2}")
    } else {
        format!("${}", count(usd as u64))
    }
}

/// `2 min 5 s`
#[must_use]
pub fn secs(s: f64) -> String {
    match s {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 90.0 => format!("{s:.1} s"),
        // Rounded first: 119.7 s are 2 min 0 s, not 1 min 60 s.
        s if s < 5400.0 => format!("{:.0} min {:.0} s", (s.round() / 60.0).floor(), s.round() % 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well_and_columns_line_up() {
        assert_eq!(
            (bytes(0), bytes(1536), bytes(3 << 30), bytes(5 << 40)),
            ("0 B".into(), "1.5 KiB".into(), "3.0 GiB".into(), "5.0 TiB".into())
        );
        assert_eq!((count(999), count(12_345), count(2_500_000)), ("999".into(), "12.3k".into(), "2.50M".into()));
        assert_eq!(
            (secs(0.25), secs(12.0), secs(125.0), secs(7200.0)),
            ("250 ms".into(), "12.0 s".into(), "2 min 5 s".into(), "2.0 h".into())
        );
        assert_eq!((secs(119.7), secs(90.2)), ("2 min 0 s".into(), "1 min 30 s".into()));
        let text = table(&["phase", "loss"], &[vec!["base".into(), "2.5".into()], vec!["a longer one".into(), "1".into()]]);
        assert_eq!(text, "phase         loss\n──────────────────\nbase           2.5\na longer one     1\n");
    }
}
