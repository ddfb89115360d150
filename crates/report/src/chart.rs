//! Charts as inline SVG: lines and dots over straight or logarithmic axes. Colours are CSS classes, so that they follow the
//! reader's light or dark theme; every dot tells its name to a pointer that rests on it.

use std::fmt::Write;

/// A chart as data.
#[derive(Debug, Clone, Default)]
pub struct Chart {
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
    pub dots: Vec<Dot>,
    /// A dashed line across at each value.
    pub levels: Vec<(String, f64)>,
    /// A dashed line upright at each value.
    pub uprights: Vec<(String, f64)>,
}

#[derive(Debug, Clone, Default)]
pub struct Axis {
    pub label: String,
    pub is_log: bool,
}

impl Axis {
    #[must_use]
    pub fn straight(label: &str) -> Self {
        Self { label: label.into(), is_log: false }
    }

    #[must_use]
    pub fn log(label: &str) -> Self {
        Self { label: label.into(), is_log: true }
    }

    /// Where a value lies; what has no logarithm lies nowhere.
    fn place(&self, value: f64) -> f64 {
        if self.is_log { value.log10() } else { value }
    }
}

/// One line.
#[derive(Debug, Clone)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    /// One of many: drawn thin, named at its end instead of in the legend.
    pub is_faint: bool,
}

/// One dot.
#[derive(Debug, Clone)]
pub struct Dot {
    pub name: String,
    pub x: f64,
    pub y: f64,
    pub kind: DotKind,
}

/// How a dot looks, from the loudest to the quietest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DotKind {
    Chosen,
    Step,
    Other,
}

const WIDTH: f64 = 640.0;
/// A chart with dots is taller: their names need room.
const HEIGHTS: [f64; 2] = [280.0, 400.0];
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

impl Chart {
    /// The picture, with a legend under it; nothing when no point can be drawn.
    #[must_use]
    pub fn svg(&self) -> String {
        let at = |p: &(f64, f64)| (self.x.place(p.0), self.y.place(p.1));
        let finite = |p: &(f64, f64)| p.0.is_finite() && p.1.is_finite();
        let lines: Vec<Vec<(f64, f64)>> = self.series.iter().map(|s| thinned(&s.points).map(at).filter(finite).collect()).collect();
        let mut dots: Vec<(&Dot, (f64, f64))> = self.dots.iter().map(|d| (d, at(&(d.x, d.y)))).filter(|(_, p)| finite(p)).collect();
        // The loudest is drawn last, over the others.
        dots.sort_by_key(|(dot, _)| std::cmp::Reverse(dot.kind));
        let points: Vec<(f64, f64)> = lines.iter().flatten().copied().chain(dots.iter().map(|d| d.1)).collect();
        if points.is_empty() {
            return String::new();
        }
        let uprights = self.uprights.iter().map(|(_, v)| self.x.place(*v)).filter(|v| v.is_finite());
        let (x0, x1) = span(points.iter().map(|p| p.0).chain(uprights));
        let (y0, y1) = span(points.iter().map(|p| p.1).chain(self.levels.iter().map(|(_, v)| self.y.place(*v)).filter(|v| v.is_finite())));
        let (x0, x1) = if self.dots.is_empty() { (x0, x1) } else { widened(x0, x1) };
        let (y0, y1) = widened(y0, y1);
        let frame = Frame { x: [x0, x1], y: [y0, y1], height: HEIGHTS[usize::from(!self.dots.is_empty())] };

        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{} by {}\">",
            frame.height,
            escape(&self.y.label),
            escape(&self.x.label)
        );
        self.axes(&frame, &mut svg);
        for (series, line) in self.series.iter().zip(&lines) {
            let colour = self.colour(series);
            let path: Vec<String> = line.iter().map(|p| format!("{:.1},{:.1}", frame.x(p.0), frame.y(p.1))).collect();
            let class = if series.is_faint { "faint".to_owned() } else { format!("s{colour}") };
            let _ = write!(svg, "<polyline class=\"line {class}\" points=\"{}\"/>", path.join(" "));
        }
        for (dot, p) in &dots {
            let (radius, class) = match dot.kind {
                DotKind::Chosen => (6.0, "d0"),
                DotKind::Step => (4.5, "d1"),
                DotKind::Other => (3.0, "d2"),
            };
            let (x, y) = (frame.x(p.0), frame.y(p.1));
            let name = escape(&dot.name);
            let _ = write!(svg, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"><title>{name}</title></circle>");
        }
        self.names(&frame, &lines, &dots, &mut svg);
        svg += "</svg>";
        let named: Vec<&Series> = self.series.iter().filter(|s| !s.is_faint).collect();
        if !named.is_empty() {
            svg += "<p class=\"legend\">";
            for series in named {
                let _ = write!(svg, "<span class=\"key k{}\"></span>{} ", self.colour(series), escape(&series.name));
            }
            svg += "</p>";
        }
        svg
    }

    /// Colours go round among the lines that are not faint.
    fn colour(&self, series: &Series) -> usize {
        self.series.iter().filter(|s| !s.is_faint).position(|s| std::ptr::eq(s, series)).unwrap_or(0) % 4
    }

    fn axes(&self, frame: &Frame, svg: &mut String) {
        for tick in ticks(frame.y, self.y.is_log) {
            let y = frame.y(tick);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                number(tick, self.y.is_log)
            );
        }
        for tick in ticks(frame.x, self.x.is_log) {
            let _ = write!(
                svg,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                frame.x(tick),
                frame.height - BOTTOM + 16.0,
                number(tick, self.x.is_log)
            );
        }
        let _ = write!(
            svg,
            "<text class=\"label\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text><text class=\"label\" transform=\"translate(12 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (LEFT + WIDTH) / 2.0,
            frame.height - 6.0,
            escape(&self.x.label),
            (TOP + frame.height - BOTTOM) / 2.0,
            escape(&self.y.label)
        );
        for (name, value) in self.levels.iter().filter(|(_, v)| self.y.place(*v).is_finite()) {
            let y = frame.y(self.y.place(*value));
            let right = WIDTH - RIGHT;
            let _ = write!(
                svg,
                "<line class=\"mark\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"tick\" x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                y - 4.0,
                escape(name)
            );
        }
        for (name, value) in self.uprights.iter().filter(|(_, v)| self.x.place(*v).is_finite()) {
            let x = frame.x(self.x.place(*value));
            let _ = write!(
                svg,
                "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{}\" text-anchor=\"end\">{}</text>",
                frame.height - BOTTOM,
                x - 4.0,
                TOP + 10.0,
                escape(name)
            );
        }
    }

    /// Names beside dots, and at the start of faint lines, as far as there is room: the loudest first.
    fn names(&self, frame: &Frame, lines: &[Vec<(f64, f64)>], dots: &[(&Dot, (f64, f64))], svg: &mut String) {
        let mut taken: Vec<[f64; 4]> =
            dots.iter().filter(|(d, _)| d.kind != DotKind::Other).map(|(_, p)| around(frame.x(p.0), frame.y(p.1))).collect();
        let mut put = |x: f64, y: f64, name: &str, svg: &mut String| {
            let width = 5.2 * name.chars().count() as f64;
            // To the right, to the left, above, below.
            let spots = [(x + 8.0, y + 3.5), (x - 8.0 - width, y + 3.5), (x - width / 2.0, y - 8.0), (x - width / 2.0, y + 14.0)];
            for (left, base) in spots {
                let place = [left, base - 7.0, left + width, base + 2.0];
                let is_free = taken.iter().all(|t| t[2] < place[0] || place[2] < t[0] || t[3] < place[1] || place[3] < t[1]);
                if is_free && place[0] > LEFT && place[2] < WIDTH && place[1] > TOP && place[3] < frame.height - BOTTOM {
                    taken.push(place);
                    let _ = write!(svg, "<text class=\"name\" x=\"{left:.1}\" y=\"{base:.1}\">{}</text>", escape(name));
                    return;
                }
            }
        };
        for (dot, p) in dots.iter().rev() {
            put(frame.x(p.0), frame.y(p.1), &dot.name, svg);
        }
        for (series, line) in self.series.iter().zip(lines).filter(|(s, _)| s.is_faint) {
            if let Some(first) = line.first() {
                put(frame.x(first.0), frame.y(first.1), &series.name, svg);
            }
        }
    }
}

fn around(x: f64, y: f64) -> [f64; 4] {
    [x - 6.0, y - 6.0, x + 6.0, y + 6.0]
}

/// What is seen of either axis, and where that lies in the picture.
struct Frame {
    x: [f64; 2],
    y: [f64; 2],
    height: f64,
}

impl Frame {
    fn x(&self, x: f64) -> f64 {
        LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, y: f64) -> f64 {
        self.height - BOTTOM - (y - self.y[0]) / (self.y[1] - self.y[0]) * (self.height - TOP - BOTTOM)
    }
}

fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if high > low { (low, high) } else { (low - 0.5, high + 0.5) }
}

fn widened(low: f64, high: f64) -> (f64, f64) {
    (low - 0.05 * (high - low), high + 0.05 * (high - low))
}

/// At most about 600 points, evenly taken: more than the eye or the page needs.
fn thinned(points: &[(f64, f64)]) -> impl Iterator<Item = &(f64, f64)> {
    let step = points.len().div_ceil(600).max(1);
    points.iter().step_by(step)
}

/// Round numbers inside a span. On a logarithmic axis powers of ten, and where those are too few 1, 2 and 5 of each, or what
/// a straight axis would have.
fn ticks([low, high]: [f64; 2], is_log: bool) -> Vec<f64> {
    if is_log && high - low < 2.0 {
        let (first, last) = (low.floor() as i32, high.floor() as i32);
        let round = (first..=last).flat_map(|power| [1.0, 2.0, 5.0].map(|m: f64| m.log10() + f64::from(power)));
        let inside: Vec<f64> = round.filter(|t| (low..=high).contains(t)).collect();
        if inside.len() >= 3 {
            return inside;
        }
        return ticks([10_f64.powf(low), 10_f64.powf(high)], false).into_iter().map(f64::log10).collect();
    }
    let rough = (high - low) / 5.0;
    let rough = if is_log { rough.max(1.0) } else { rough };
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    (first..first.saturating_add(12)).map(|i| i as f64 * step).take_while(|t| *t <= high).collect()
}

/// A tick's value; `x` is a power of ten on a logarithmic axis.
fn number(x: f64, is_log: bool) -> String {
    let value = if is_log { 10_f64.powf(x) } else { x };
    match value.abs() {
        a if is_log && !(1e-3..1e7).contains(&a) => format!("{value:.0e}"),
        a if a >= 1e6 => format!("{}M", round(value / 1e6)),
        a if a >= 1e4 => format!("{}k", round(value / 1e3)),
        _ => round(value),
    }
}

fn round(x: f64) -> String {
    let text = format!("{x:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_escaped_and_bad_points_left_out() {
        let series = vec![Series { name: "<script>".into(), points: vec![(1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0)], is_faint: false }];
        let dots = vec![Dot { name: "a <b>".into(), x: -1.0, y: 2.0, kind: DotKind::Other }];
        let chart = Chart { x: Axis::log("step"), y: Axis::straight("a & b"), series, dots, ..Chart::default() };
        let svg = chart.svg();
        assert!(svg.contains("&lt;script&gt;") && svg.contains("a &amp; b") && !svg.contains("NaN") && !svg.contains("<circle"));
        assert_eq!(Chart::default().svg(), "");
    }

    #[test]
    fn a_logarithmic_axis_has_powers_of_ten() {
        assert_eq!(ticks([18.2, 22.9], true), [19.0, 20.0, 21.0, 22.0]);
        let values = |span| ticks(span, true).into_iter().map(|t| number(t, true)).collect::<Vec<_>>().join(" ");
        assert_eq!((values([5.6, 6.1]), values([0.0, 1.6])), ("400k 600k 800k 1M 1.2M".into(), "1 2 5 10 20".to_owned()));
        assert_eq!((number(21.0, true), number(2.0, true), number(2.5, false)), ("1e21".into(), "100".into(), "2.5".into()));
    }

    #[test]
    fn no_span_is_too_small_or_too_far_for_ticks() {
        for span in [[5e-324, 1e-323], [1e300, 1.1e300], [-1e18, 1e18], [0.0, 5e-324]] {
            for is_log in [false, true] {
                assert!(ticks(span, is_log).len() <= 12, "{span:?}");
            }
        }
    }

    #[test]
    fn crowded_names_give_way_to_the_loudest() {
        let dot = |name: &str, kind| Dot { name: name.into(), x: 1.0, y: 1.0, kind };
        let many = (0..20).map(|i| dot(&format!("another {i}"), DotKind::Other)).chain([dot("the chosen one", DotKind::Chosen)]);
        let svg = Chart { dots: many.collect(), ..Chart::default() }.svg();
        assert!(svg.contains(">the chosen one</text>"));
        assert!(svg.matches("</text>").count() < 20, "names lie on one another");
    }
}
