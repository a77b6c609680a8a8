//! Line charts as SVG: scales, grid, lines; and their legend. Colours and strokes are the style sheet's (`.s0` to `.s4`).

use std::fmt::Write as _;

use super::html::escape;

/// The view box; small, so that text stays readable where a page is as narrow as a phone.
const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 268.0;
/// The plot's place in it.
const LEFT: f64 = 66.0;
const RIGHT: f64 = 414.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 222.0;
/// Styles that the style sheet has for lines.
const STYLES: usize = 5;

/// A chart, before it is drawn.
pub(super) struct Chart {
    /// In a document each chart has its own: letters only.
    pub(super) id: &'static str,
    pub(super) title: String,
    /// What it shows, in a sentence, for those who do not see it.
    pub(super) about: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
}

/// A scale, from `low` to `high`, with its marks.
pub(super) struct Axis {
    pub(super) label: &'static str,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) ticks: Vec<(f64, String)>,
}

/// One line; `None` is a gap.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<Option<(f64, f64)>>,
}

impl Axis {
    /// From 0 to a round number not below `most`, with six marks at most, each a whole number.
    pub(super) fn from_zero(label: &'static str, most: f64, name: impl Fn(f64) -> String) -> Self {
        let rough = (most / 5.0).max(1.0);
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power);
        let step = step.into_iter().find(|step| *step >= rough * 0.999);
        let step = step.unwrap_or(power * 10.0);
        let steps = (most / step - 1e-9).ceil().clamp(1.0, 6.0);
        let marks = (0_u8..=6).map(f64::from).take_while(|n| *n <= steps);
        let ticks = marks.map(|n| n * step).map(|at| (at, name(at))).collect();
        Self {
            label,
            low: 0.0,
            high: steps * step,
            ticks,
        }
    }

    /// A scale of powers of ten that holds `least` to `most`, both above 0. Points are given as `log10`.
    pub(super) fn log(
        label: &'static str,
        least: f64,
        most: f64,
        name: impl Fn(f64) -> String,
    ) -> Self {
        let round = |power: i32| [1.0, 2.0, 5.0].map(|n| n * 10_f64.powi(power));
        let marks: Vec<f64> = (-3..=20).flat_map(round).collect();
        let low = marks.iter().rposition(|at| *at <= least).unwrap_or(0);
        let last = marks.len() - 1;
        let high = marks.iter().position(|at| *at >= most).unwrap_or(last);
        let high = high.max(low + 1).min(last);
        let low = low.min(high - 1);
        let of_ten = |at: &f64| (at.log10() - at.log10().round()).abs() < 1e-9;
        let few = high - low < 7;
        let shown = marks[low..=high].iter().filter(|at| few || of_ten(at));
        Self {
            label,
            low: marks[low].log10(),
            high: marks[high].log10(),
            ticks: shown.map(|at| (at.log10(), name(*at))).collect(),
        }
    }

    /// Where `at` is, from 0 to 1.
    fn part(&self, at: f64) -> f64 {
        ((at - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

impl Line {
    /// Whether there is anything of it.
    pub(super) fn has_points(&self) -> bool {
        self.points.iter().any(Option::is_some)
    }
}

impl Chart {
    /// Whether any of its lines is one: a single point is not.
    pub(super) fn shows_something(&self) -> bool {
        let many = |line: &Line| line.points.iter().flatten().nth(1).is_some();
        self.lines.iter().any(many)
    }

    /// The names of its lines, as a list for the body of a page. It stands outside of the picture, so that it is
    /// as wide as its words are in the reader's font, and breaks where a page is narrow.
    pub(super) fn legend(&self) -> String {
        let item = |(at, line): (usize, &Line)| {
            let (style, name) = (at % STYLES, escape(&line.name));
            format!(
                "<li><svg class=\"key\" viewBox=\"0 0 24 4\" aria-hidden=\"true\"><path class=\"line s{style}\" \
                 d=\"M2 2H22\"/></svg>{name}</li>\n"
            )
        };
        let items: String = self.lines.iter().enumerate().map(item).collect();
        format!("<ul class=\"legend\">\n{items}</ul>\n")
    }

    /// The chart as an `<svg>` element, for the body of a page.
    pub(super) fn svg(&self) -> String {
        let (id, title, about) = (self.id, escape(&self.title), escape(&self.about));
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"{id}-title {id}-desc\">\n\
             <title id=\"{id}-title\">{title}</title>\n<desc id=\"{id}-desc\">{about}</desc>\n"
        );
        self.grid(&mut svg);
        for (at, line) in self.lines.iter().enumerate() {
            let path = self.path(&line.points);
            put(
                &mut svg,
                format_args!("<path class=\"line s{}\" d=\"{path}\"/>", at % STYLES),
            );
        }
        svg + "</svg>\n"
    }

    fn grid(&self, svg: &mut String) {
        for (at, name) in &self.y.ticks {
            let (y, name) = (self.down(*at), escape(name));
            put(
                svg,
                format_args!("<path class=\"grid\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>"),
            );
            put(
                svg,
                format_args!(
                    "<text class=\"end\" x=\"{}\" y=\"{:.1}\">{name}</text>",
                    LEFT - 6.0,
                    y + 4.5
                ),
            );
        }
        for (at, name) in &self.x.ticks {
            let (x, name) = (self.across(*at), escape(name));
            put(
                svg,
                format_args!("<path class=\"grid\" d=\"M{x:.1} {TOP}V{BOTTOM}\"/>"),
            );
            put(
                svg,
                format_args!(
                    "<text class=\"middle\" x=\"{x:.1}\" y=\"{}\">{name}</text>",
                    BOTTOM + 18.0
                ),
            );
        }
        put(
            svg,
            format_args!("<path class=\"axis\" d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\"/>"),
        );
        let (middle, below) = (f64::midpoint(LEFT, RIGHT), HEIGHT - 6.0);
        let (across, up) = (escape(self.x.label), escape(self.y.label));
        put(
            svg,
            format_args!("<text class=\"middle\" x=\"{middle}\" y=\"{below}\">{across}</text>"),
        );
        put(svg, format_args!("<text x=\"4\" y=\"16\">{up}</text>"));
    }

    fn path(&self, points: &[Option<(f64, f64)>]) -> String {
        let mut path = String::new();
        let mut joined = false;
        for point in points {
            if let Some((x, y)) = point {
                let (x, y) = (self.across(*x), self.down(*y));
                // `h0` makes a dot of a point that stands alone.
                let step = if joined {
                    format!("L{x:.1} {y:.1}")
                } else {
                    format!("M{x:.1} {y:.1}h0")
                };
                path += &step;
            }
            joined = point.is_some();
        }
        path
    }

    fn across(&self, at: f64) -> f64 {
        LEFT + self.x.part(at) * (RIGHT - LEFT)
    }

    fn down(&self, at: f64) -> f64 {
        BOTTOM - self.y.part(at) * (BOTTOM - TOP)
    }
}

fn put(svg: &mut String, element: std::fmt::Arguments<'_>) {
    let _ = writeln!(svg, "{element}"); // a String takes everything
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<Option<(f64, f64)>>) -> Chart {
        Chart {
            id: "c",
            title: "T & t".to_owned(),
            about: "<what>".to_owned(),
            x: Axis::from_zero("x", 10.0, |at| at.to_string()),
            y: Axis::from_zero("y", 10.0, |at| at.to_string()),
            lines: vec![Line {
                name: "a".to_owned(),
                points,
            }],
        }
    }

    fn marks(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, name)| name.as_str()).collect()
    }

    #[test]
    fn a_scale_from_zero_has_round_marks() {
        let whole = |at: f64| at.to_string();
        for (most, expected) in [
            (0.0, &["0", "1"][..]),
            (3.0, &["0", "1", "2", "3"]),
            (10.0, &["0", "2", "4", "6", "8", "10"]),
            (101.0, &["0", "50", "100", "150"]),
            (988.0, &["0", "200", "400", "600", "800", "1000"]),
        ] {
            let axis = Axis::from_zero("", most, whole);
            assert_eq!(marks(&axis), expected, "{most}");
            assert!(axis.high >= most);
        }
    }

    #[test]
    fn a_scale_of_powers_holds_least_and_most() {
        let whole = |at: f64| at.to_string();
        let axis = Axis::log("", 911.0, 9000.0, whole);
        assert_eq!(marks(&axis), ["500", "1000", "2000", "5000", "10000"]);
        let axis = Axis::log("", 100.0, 100.0, whole);
        assert_eq!(marks(&axis), ["100", "200"]);
        let axis = Axis::log("", 3.0, 9e6, whole);
        assert_eq!(
            marks(&axis),
            [
                "10", "100", "1000", "10000", "100000", "1000000", "10000000"
            ]
        );
        assert!(axis.low <= 3_f64.log10());
        let axis = Axis::log("", 1.0, 1e300, whole);
        assert!(axis.high > axis.low);
    }

    #[test]
    fn lines_run_from_corner_to_corner_and_stop_at_gaps() {
        let svg = chart(vec![
            Some((0.0, 0.0)),
            Some((10.0, 10.0)),
            None,
            Some((5.0, 5.0)),
        ])
        .svg();
        assert!(
            svg.contains("d=\"M66.0 222.0h0L414.0 34.0M240.0 128.0h0\""),
            "{svg}"
        );
    }

    #[test]
    fn a_chart_tells_those_who_do_not_see_it() {
        let svg = chart(Vec::new()).svg();
        assert!(
            svg.contains("<title id=\"c-title\">T &amp; t</title>"),
            "{svg}"
        );
        assert!(
            svg.contains("<desc id=\"c-desc\">&lt;what&gt;</desc>"),
            "{svg}"
        );
    }

    #[test]
    fn a_legend_names_every_line_in_its_style() {
        let mut chart = chart(Vec::new());
        for name in ["b", "c & d", "e", "f"] {
            chart.lines.push(Line {
                name: name.to_owned(),
                points: Vec::new(),
            });
        }
        let legend = chart.legend();
        assert_eq!(legend.matches("<li>").count(), 5);
        for style in 0..STYLES {
            let key = format!("class=\"line s{style}\"");
            assert_eq!(legend.matches(&key).count(), 1, "{legend}");
        }
        assert!(legend.contains("</svg>c &amp; d</li>"), "{legend}");
    }

    #[test]
    fn a_point_is_no_line() {
        assert!(!chart(Vec::new()).shows_something());
        assert!(!chart(vec![None, Some((1.0, 1.0)), None]).shows_something());
        assert!(chart(vec![Some((1.0, 1.0)), None, Some((2.0, 1.0))]).shows_something());
    }
}
