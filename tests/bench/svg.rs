//! How cost grows, as a drawing that browsers and GitHub show in the reader's own colours.

use std::fmt::Write as _;

use crate::measure::Growth;

/// One chart: its place, what it shows, and the points.
struct Chart<'a> {
    title: &'a str,
    across: &'a str,
    points: &'a [(f64, f64)],
    /// Steps of ten, where the points lie so.
    is_logarithmic: bool,
}

const WIDTH: f64 = 410.0;
const HEIGHT: f64 = 250.0;
/// Room for titles and numbers, of one chart.
const LEFT: f64 = 52.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 44.0;

const STYLE: &str = "
  text { font: 12px system-ui, sans-serif; fill: #57606a; }
  .title { font-weight: 600; font-size: 13px; fill: #1f2328; }
  .grid { stroke: #d0d7de; stroke-width: 1; }
  .line { stroke: #0969da; stroke-width: 2; fill: none; }
  .point { fill: #0969da; }
  .value { fill: #1f2328; font-size: 11px; }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1; }
    .title, .value { fill: #f0f6fc; }
    .grid { stroke: #3d444d; }
    .line { stroke: #58a6ff; }
    .point { fill: #58a6ff; }
  }
";

/// The drawing.
pub(crate) fn draw(growth: &Growth) -> String {
    let charts = [
        Chart {
            title: "Start to the first answer, ms",
            across: "profiles offered",
            points: &growth.profiles,
            is_logarithmic: true,
        },
        Chart {
            title: "Memory of both processes, MB",
            across: "HTTP clients, each with two sessions",
            points: &growth.clients,
            is_logarithmic: false,
        },
        Chart {
            title: "Thousands of calls a second",
            across: "calls in flight",
            points: &growth.in_flight,
            is_logarithmic: true,
        },
        Chart {
            title: "A call beyond direct, ms",
            across: "kilobytes of the result",
            points: &growth.body,
            is_logarithmic: true,
        },
    ];
    let (width, height) = (WIDTH * 2.0, HEIGHT * 2.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
         aria-label=\"How cost grows with profiles, clients, calls in flight and body size\">\n<style>{STYLE}</style>\n"
    );
    for (number, chart) in charts.iter().enumerate() {
        let (column, row) = ((number % 2) as f64, (number / 2) as f64);
        let _ = writeln!(svg, "<g transform=\"translate({} {})\">", column * WIDTH, row * HEIGHT);
        chart.draw(&mut svg);
        svg.push_str("</g>\n");
    }
    svg + "</svg>\n"
}

impl Chart<'_> {
    fn draw(&self, svg: &mut String) {
        let most = self.points.iter().map(|point| point.1).fold(0.0, f64::max);
        let top = round_up(most);
        let scale = |x: f64| if self.is_logarithmic { x.ln() } else { x };
        let (first, last) = (self.points[0].0, self.points[self.points.len() - 1].0);
        let x = |value: f64| {
            LEFT + (scale(value) - scale(first)) / (scale(last) - scale(first))
                * (WIDTH - LEFT - RIGHT)
        };
        let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
        let Self { title, across, points, .. } = self;
        let _ = writeln!(svg, "<text class=\"title\" x=\"{LEFT}\" y=\"20\">{title}</text>");
        for quarter in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let value = top * quarter;
            let (at, right) = (y(value), WIDTH - RIGHT);
            let _ = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                at + 4.0,
                number(value)
            );
        }
        let line: Vec<String> =
            points.iter().map(|point| format!("{:.1} {:.1}", x(point.0), y(point.1))).collect();
        let _ = writeln!(svg, "<path class=\"line\" d=\"M{}\"/>", line.join("L"));
        for (across, value) in *points {
            let (px, py) = (x(*across), y(*value));
            let below = HEIGHT - BOTTOM + 17.0;
            let _ = writeln!(
                svg,
                "<circle class=\"point\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3\"/>\
                 <text class=\"value\" x=\"{px:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
                 <text x=\"{px:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{}</text>",
                py - 8.0,
                number(*value),
                number(*across)
            );
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        let bottom = HEIGHT - 8.0;
        let _ = writeln!(
            svg,
            "<text x=\"{middle:.1}\" y=\"{bottom:.1}\" text-anchor=\"middle\">{across}</text>"
        );
    }
}

/// The next of 1, 2, 4, 6 and 8 times a power of ten above `value`.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1e-9).log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|top| *top >= value).unwrap_or(value)
}

/// With as many digits as matter.
fn number(value: f64) -> String {
    let digits = match value {
        0.0 => 0,
        value if value < 0.1 => 3,
        value if value < 1.0 => 2,
        value if value < 10.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}
