//! The pictures, as SVG.

use std::fmt::{Display, Write};

use crate::hosts::{COLUMNS, Row};
use crate::report::readable;
use crate::run::{Results, median};

/// The colours of each library, on one Lua after the other.
const COLOURS: [[&str; 3]; 5] = [
    ["#0b5394", "#3d85c6", "#9fc5e8"],
    ["#990000", "#e06666", "#f4cccc"],
    ["#b45f06", "#f6b26b", "#fce5cd"],
    ["#38761d", "#93c47d", "#d9ead3"],
    ["#444444", "#999999", "#cccccc"],
];
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 360.0;
/// The plot's place in its panel.
const LEFT: f64 = 70.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = HEIGHT - 40.0;
/// The programs that are left out: one that is no client, and one that would show the same twice.
const LEFT_OUT: [&str; 2] = ["raw socket", "Copas"];

/// The colours of the columns of [`hosts`].
const DIRECTIONS: [&str; 4] = ["#0b5394", "#6fa8dc", "#b45f06", "#f6b26b"];

struct Svg {
    text: String,
    /// The colours of the programs.
    colours: Vec<&'static str>,
}

impl Svg {
    fn new(programs: &[&str]) -> Self {
        Self::with_legend(programs, colours(programs), HEIGHT)
    }

    /// A picture with a legend below `height`.
    fn with_legend(programs: &[&str], colours: Vec<&'static str>, height: f64) -> Self {
        let mut svg = Self {
            text: String::new(),
            colours,
        };
        let (legend, rows) = (height, programs.len().div_ceil(4));
        let height = height + 20.0 * rows as f64;
        svg.add(format_args!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">"##
        ));
        svg.add(format_args!(
            r#"<rect width="{WIDTH}" height="{height}" fill="white"/>"#
        ));
        for (i, program) in programs.iter().enumerate() {
            let (x, y) = (
                LEFT + 215.0 * (i % 4) as f64,
                legend + 20.0 * (i / 4) as f64,
            );
            svg.bar(x, y, 12.0, 12.0, i, program);
            svg.text(x + 18.0, y + 10.0, "start", program);
        }
        svg
    }

    fn add(&mut self, element: impl Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{element}");
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        self.add(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        ));
    }

    fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, program: usize, title: &str) {
        let colour = self.colours[program];
        self.add(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}"><title>{title}</title></rect>"#
        ));
    }

    fn grid(&mut self, left: f64, right: f64, y: f64, label: &str) {
        self.add(format_args!(
            r##"<path d="M{left:.1} {y:.1}H{right:.1}" stroke="#ddd"/>"##
        ));
        self.text(left - 6.0, y + 4.0, "end", label);
    }

    fn line(&mut self, points: &[(f64, f64)], program: usize) {
        let colour = self.colours[program];
        let path: Vec<_> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        self.add(format_args!(
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
            path.join(" ")
        ));
        for (x, y) in points {
            self.add(format_args!(
                r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#
            ));
        }
    }

    fn finish(mut self) -> String {
        self.add("</svg>");
        self.text
    }
}

/// A colour for each program.
fn colours(programs: &[&str]) -> Vec<&'static str> {
    let mut libraries: Vec<(&str, usize)> = Vec::new();
    let mut colours = Vec::new();
    for program in programs {
        let library = program.split(',').next().unwrap_or_default();
        let known = libraries.iter().position(|(name, _)| *name == library);
        let hue = known.unwrap_or_else(|| {
            libraries.push((library, 0));
            libraries.len() - 1
        });
        let shade = &mut libraries[hue].1;
        colours.push(COLOURS[hue % COLOURS.len()][*shade % 3]);
        *shade += 1;
    }
    colours
}

/// The programs in some results, each once.
fn programs<'a>(results: &[&'a Results]) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (program, figures) in results.iter().flat_map(|result| &result.programs) {
        let is_left_out = LEFT_OUT.iter().any(|word| program.label.contains(word));
        if !is_left_out && !figures.is_empty() && !names.contains(&program.label.as_str()) {
            names.push(&program.label);
        }
    }
    names
}

fn value(result: &Results, program: &str, figure: &str) -> Option<f64> {
    let (_, figures) = result
        .programs
        .iter()
        .find(|(other, _)| other.label == program)?;
    figures.get(figure).map(|values| median(values))
}

/// Messages a second by direction and QoS, as bars. `None` if they were not measured.
pub fn throughput(results: &[Results]) -> Option<String> {
    let groups: Vec<&Results> = results
        .iter()
        .filter(|result| {
            let (task, numbers) = result.scenario.name.split_once('-').unwrap_or_default();
            ["receive", "publish"].contains(&task) && ["0", "1", "2"].contains(&numbers)
        })
        .collect();
    let programs = programs(&groups);
    let rates = groups.iter().flat_map(|group| {
        programs
            .iter()
            .filter_map(|name| value(group, name, "rate"))
    });
    let highest = rates.reduce(f64::max)?;
    let step = 10f64.powf(highest.log10().floor())
        / if highest.log10().fract() < 0.5 {
            2.0
        } else {
            1.0
        };
    let scale = (BOTTOM - TOP) / highest;

    let mut svg = Svg::new(&programs);
    svg.text(
        LEFT,
        20.0,
        "start",
        "Messages a second, payload of 64 bytes",
    );
    for i in 0..=(highest / step) as usize {
        let rate = i as f64 * step;
        svg.grid(LEFT, WIDTH, BOTTOM - rate * scale, &readable(rate));
    }
    let room = (WIDTH - LEFT) / groups.len() as f64;
    let width = room * 0.85 / programs.len() as f64;
    for (g, group) in groups.iter().enumerate() {
        let left = LEFT + room * (g as f64 + 0.075);
        for (i, name) in programs.iter().enumerate() {
            if let Some(rate) = value(group, name, "rate") {
                let title = format!("{name}: {}", readable(rate));
                svg.bar(
                    left + width * i as f64,
                    BOTTOM - rate * scale,
                    width * 0.9,
                    rate * scale,
                    i,
                    &title,
                );
            }
        }
        let label = group.scenario.name.replace('-', ", QoS ");
        svg.text(left + room * 0.425, BOTTOM + 20.0, "middle", &label);
    }
    Some(svg.finish())
}

/// The cost of a message and of idling against the number of clients. `None` if it was not measured.
pub fn clients(results: &[Results]) -> Option<String> {
    let counts: Vec<&Results> = results
        .iter()
        .filter(|result| result.scenario.name.starts_with("clients-"))
        .collect();
    if counts.len() < 2 {
        return None;
    }
    let programs = programs(&counts);
    let count = |result: &Results| result.scenario.task[1].parse().unwrap_or(1.0f64);
    let most = counts
        .iter()
        .map(|result| count(result))
        .fold(1.0, f64::max);
    let mut svg = Svg::new(&programs);
    for (panel, (figure, title)) in [
        ("echo", "us of CPU a message, received and answered"),
        ("idle", "ms of CPU a second, idle"),
    ]
    .iter()
    .enumerate()
    {
        let left = LEFT + panel as f64 * WIDTH / 2.0;
        let right = left + WIDTH / 2.0 - LEFT - 25.0;
        let points = |name| {
            let point =
                |result: &&Results| Some((count(result), value(result, name, figure)?.max(1e-3)));
            counts.iter().filter_map(point).collect::<Vec<_>>()
        };
        let all: Vec<f64> = programs
            .iter()
            .flat_map(|name| points(name))
            .map(|(_, y)| y)
            .collect();
        let low = all.iter().copied().reduce(f64::min)?.log10().floor();
        let high = all
            .iter()
            .copied()
            .reduce(f64::max)?
            .log10()
            .ceil()
            .max(low + 1.0);
        let x = |count: f64| left + (right - left) * count.log10() / most.log10();
        let y = |value: f64| BOTTOM - (BOTTOM - TOP) * (value.log10() - low) / (high - low);
        svg.text(left, 20.0, "start", title);
        for exponent in low as i32..=high as i32 {
            let value = 10f64.powi(exponent);
            svg.grid(left, right, y(value), &value.to_string());
        }
        for result in &counts {
            svg.text(
                x(count(result)),
                BOTTOM + 20.0,
                "middle",
                &count(result).to_string(),
            );
        }
        for (i, name) in programs.iter().enumerate() {
            let line: Vec<_> = points(name)
                .into_iter()
                .map(|(n, value)| (x(n), y(value)))
                .collect();
            svg.line(&line, i);
        }
    }
    svg.text(
        WIDTH / 2.0,
        BOTTOM + 36.0,
        "middle",
        "clients in one process",
    );
    Some(svg.finish())
}

/// How many times the original's messages a second each host takes, as bars on a logarithmic scale. `None` if that was
/// not measured.
pub fn hosts(rows: &[Row]) -> Option<String> {
    const LABELS: f64 = 180.0;
    const BAR: f64 = 7.0;
    const GROUP: f64 = BAR * COLUMNS.len() as f64 + 8.0;
    let rates = rows.iter().flat_map(|row| row.ratios.into_iter().flatten());
    let (low, high) = rates
        .map(|[rate, _]| (rate, rate))
        .reduce(|(low, high), (rate, _)| (low.min(rate), high.max(rate)))?;
    // From a power of ten to a power of ten.
    let low = low.log10().floor().min(0.0);
    let high = high.log10().ceil().max(low + 1.0);
    let x = |ratio: f64| LABELS + (WIDTH - LABELS - 40.0) * (ratio.log10() - low) / (high - low);
    let bottom = TOP + GROUP * rows.len() as f64;
    let mut svg = Svg::with_legend(
        &COLUMNS.map(|(_, title)| title),
        DIRECTIONS.to_vec(),
        bottom + 40.0,
    );
    let title =
        "Messages a second: how many times the original's on the same Lua and in the same host";
    svg.text(LABELS, 20.0, "start", title);
    for exponent in low as i32..=high as i32 {
        let ratios = [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(exponent));
        for ratio in ratios.into_iter().filter(|ratio| ratio.log10() <= high) {
            let colour = if ratio == 1.0 { "#444" } else { "#ddd" };
            svg.add(format_args!(
                r##"<path d="M{:.1} {TOP}V{bottom:.1}" stroke="{colour}"/>"##,
                x(ratio)
            ));
            svg.text(x(ratio), bottom + 16.0, "middle", &ratio.to_string());
        }
    }
    for (r, row) in rows.iter().enumerate() {
        let top = TOP + GROUP * r as f64 + 4.0;
        svg.text(LABELS - 8.0, top + GROUP / 2.0, "end", &row.host);
        for (i, ratios) in row.ratios.into_iter().enumerate() {
            if let Some([rate, _]) = ratios {
                let (from, to) = (x(1.0).min(x(rate)), x(1.0).max(x(rate)));
                let title = format!("{}: {}", COLUMNS[i].1, readable(rate));
                svg.bar(from, top + BAR * i as f64, to - from, BAR - 1.0, i, &title);
            }
        }
    }
    Some(svg.finish())
}
