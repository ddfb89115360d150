//! Line charts as inline SVG. Colours are CSS classes, so that they follow the reader's light or dark theme.

use std::fmt::Write;

/// One line.
pub(crate) struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

/// A chart of `series`, or nothing when no point can be drawn. A dashed line stands at each of `marks`.
pub(crate) fn lines(x_label: &str, y_label: &str, series: &[Series], marks: &[(String, f64)]) -> String {
    let finite = |p: &&(f64, f64)| p.0.is_finite() && p.1.is_finite();
    let points: Vec<(f64, f64)> = series.iter().flat_map(|s| s.points.iter()).filter(finite).copied().collect();
    if points.is_empty() {
        return String::new();
    }
    let span = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if high > low { (low, high) } else { (low - 0.5, high + 0.5) }
    };
    let (x0, x1) = span(&mut points.iter().map(|p| p.0));
    let (y0, y1) = span(&mut points.iter().map(|p| p.1).chain(marks.iter().map(|m| m.1)));
    let (y0, y1) = (y0 - 0.05 * (y1 - y0), y1 + 0.05 * (y1 - y0));
    let at_x = |x: f64| LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
    let at_y = |y: f64| HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);

    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} by {}\">", escape(y_label), escape(x_label));
    for tick in ticks(y0, y1) {
        let y = at_y(tick);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            number(tick)
        );
    }
    for tick in ticks(x0, x1) {
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            at_x(tick),
            HEIGHT - BOTTOM + 16.0,
            number(tick)
        );
    }
    let _ = write!(
        svg,
        "<text class=\"label\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        (LEFT + WIDTH) / 2.0,
        HEIGHT - 6.0,
        escape(x_label)
    );
    let _ = write!(
        svg,
        "<text class=\"label\" transform=\"translate(12 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        (TOP + HEIGHT - BOTTOM) / 2.0,
        escape(y_label)
    );
    for (name, value) in marks {
        let y = at_y(*value);
        let _ = write!(
            svg,
            "<line class=\"mark\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            WIDTH - RIGHT,
            y - 4.0,
            escape(name)
        );
    }
    for (i, series) in series.iter().enumerate() {
        let path: Vec<String> = thinned(&series.points).filter(finite).map(|(x, y)| format!("{:.1},{:.1}", at_x(*x), at_y(*y))).collect();
        let _ = write!(svg, "<polyline class=\"line s{}\" points=\"{}\"/>", i % 4, path.join(" "));
    }
    svg += "</svg><p class=\"legend\">";
    for (i, series) in series.iter().enumerate() {
        let _ = write!(svg, "<span class=\"key k{}\"></span>{} ", i % 4, escape(&series.name));
    }
    svg + "</p>"
}

/// At most about 600 points, evenly taken: more than the eye or the page needs.
fn thinned(points: &[(f64, f64)]) -> impl Iterator<Item = &(f64, f64)> {
    let step = points.len().div_ceil(600).max(1);
    points.iter().step_by(step)
}

/// Four to eight round numbers inside a span.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    (first..first + 12).map(|i| i as f64 * step).take_while(|t| *t <= high).collect()
}

fn number(x: f64) -> String {
    match x.abs() {
        a if a >= 1e6 => format!("{}M", round(x / 1e6)),
        a if a >= 1e4 => format!("{}k", round(x / 1e3)),
        _ => round(x),
    }
}

fn round(x: f64) -> String {
    let text = format!("{x:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_escaped_and_bad_points_left_out() {
        let series = [Series { name: "<script>".into(), points: vec![(1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0)] }];
        let svg = lines("step", "a & b", &series, &[]);
        assert!(svg.contains("&lt;script&gt;") && svg.contains("a &amp; b") && !svg.contains("NaN"));
        assert_eq!(lines("x", "y", &[], &[]), "");
    }
}
