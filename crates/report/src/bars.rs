//! A quantity in its parts, one bar each under another: what a step's time or a rank's memory goes to. Names stand left and values
//! right of their bars, so that no colour has to be told from another.

use std::fmt::Write;

use crate::chart::escape;

/// Bars of one quantity.
#[derive(Debug, Clone, Default)]
pub struct Bars {
    /// Name, size and the size as text.
    pub rows: Vec<(String, f64, String)>,
    /// What a bar of full length stands for, such as all of a memory; none: the largest.
    pub full: Option<f64>,
}

const WIDTH: f64 = 640.0;
const ROW: f64 = 22.0;
/// Where bars begin, and what is kept for values behind them.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 110.0;

impl Bars {
    /// The picture; nothing when no bar can be drawn.
    #[must_use]
    pub fn svg(&self) -> String {
        let rows: Vec<&(String, f64, String)> = self.rows.iter().filter(|(_, size, _)| size.is_finite() && *size >= 0.0).collect();
        let largest = rows.iter().map(|row| row.1).fold(self.full.unwrap_or(0.0), f64::max);
        if !(largest > 0.0 && largest.is_finite()) {
            return String::new();
        }
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\">", ROW * rows.len() as f64);
        for (i, (name, size, text)) in rows.into_iter().enumerate() {
            let (top, length) = (ROW * i as f64 + 4.0, size / largest * (WIDTH - LEFT - RIGHT));
            let _ = write!(
                svg,
                "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><rect class=\"d1\" x=\"{LEFT}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"14\"/><text class=\"label\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                LEFT - 8.0,
                top + 11.0,
                escape(name),
                LEFT + length + 6.0,
                top + 11.0,
                escape(text)
            );
        }
        svg + "</svg>"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_is_the_largest_and_what_is_no_size_is_left_out() {
        let row = |name: &str, size: f64| (name.to_owned(), size, format!("{size}"));
        let bars = Bars { rows: vec![row("a <b>", 2.0), row("half", 1.0), row("none", f64::NAN), row("less", -1.0)], full: None };
        let svg = bars.svg();
        assert!(svg.contains("width=\"380.0\"") && svg.contains("width=\"190.0\"") && svg.contains("a &lt;b&gt;"), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(Bars { full: Some(4.0), ..bars }.svg().contains("width=\"95.0\""));
        assert_eq!(Bars { rows: vec![row("a", 0.0)], full: None }.svg(), "");
    }
}
