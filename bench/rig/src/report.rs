//! The table, the verdicts and the JSON.

use std::fmt::Write;
use std::fs;

use crate::run::{Program, Results, median};
use crate::scenario::{Against, TARGETS, Target};

/// The outcome of a target.
pub struct Verdict {
    target: &'static Target,
    program: String,
    against: String,
    ratio: f64,
}

impl Verdict {
    fn is_met(&self) -> bool {
        if self.target.at_least {
            self.ratio >= self.target.bound
        } else {
            self.ratio <= self.target.bound
        }
    }
}

/// Prints the medians of a scenario.
pub fn print_figures(results: &Results) {
    println!("\n{}", results.scenario.title);
    print!("  {:<26}", "");
    for (_, unit) in results.scenario.columns {
        print!(" {unit:>20}");
    }
    println!();
    for (program, figures) in &results.programs {
        print!("  {:<26}", program.label);
        for (name, _) in results.scenario.columns {
            print!(
                " {:>20}",
                figures
                    .get(*name)
                    .map_or("-".into(), |values| readable(median(values)))
            );
        }
        println!();
    }
}

/// At least three digits, and no more of them after the point than needed for that.
pub fn readable(number: f64) -> String {
    let digits = match number.abs() {
        10_000.0.. => return format!("{:.0} k", number / 1000.0),
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.0 => 0,
        _ => 3,
    };
    format!("{number:.digits$}")
}

/// Compares the figures with the targets, if both sides were measured.
pub fn verdicts(results: &[Results]) -> Vec<Verdict> {
    TARGETS
        .iter()
        .flat_map(|target| judge(target, results))
        .collect()
}

fn judge(target: &'static Target, results: &[Results]) -> Vec<Verdict> {
    let figure = |scenario: &str, who: &dyn Fn(&Program) -> bool| {
        let result = results
            .iter()
            .find(|result| result.scenario.name == scenario)?;
        let (program, figures) = result.programs.iter().find(|(program, _)| who(program))?;
        Some((program.label.clone(), median(figures.get(target.figure)?)))
    };
    let own = results
        .iter()
        .filter(|result| result.scenario.name == target.scenario);
    let ours = own
        .flat_map(|result| &result.programs)
        .map(|(program, _)| program);
    let ours = ours.filter(|program| match target.who {
        "nginx" => program.is_in_nginx(),
        "luasocket" => program.is_by_connector(false),
        "copas connector" => program.is_by_connector(true),
        "store" => program.is_stored("process"),
        "synced store" => program.is_stored("power"),
        "" | "copas" => program.is_ours(target.who == "copas"),
        lua => program.is_ours(false) && program.lua.as_deref() == Some(lua),
    });
    ours.filter_map(|program| {
        let (label, value) = figure(target.scenario, &|other| other.label == program.label)?;
        let (against, other) = match target.against {
            Against::Program(name) => figure(target.scenario, &|other| other.label == name)?,
            Against::Fork => figure(target.scenario, &|other| {
                let is_fork = match target.who {
                    "nginx" => other.is_fork_in_nginx(),
                    "copas connector" => other.is_fork_in_copas(),
                    _ => other.is_fork(),
                };
                is_fork && other.lua == program.lua
            })?,
            Against::Stock => figure(target.scenario, &|other| {
                other.is_ours(false) && other.lua == program.lua
            })?,
            Against::Scenario(name) => {
                let (_, value) = figure(name, &|other| other.label == program.label)?;
                (name.to_owned(), value)
            }
            Against::Value => (String::new(), 1.0),
        };
        Some(Verdict {
            target,
            program: label,
            against,
            ratio: value / other,
        })
    })
    .collect()
}

/// Prints the targets and their outcomes.
pub fn print_verdicts(verdicts: &[Verdict]) {
    println!("\ntargets");
    for verdict in verdicts {
        let target = verdict.target;
        let versus = if verdict.against.is_empty() {
            "value".into()
        } else {
            format!("x {}", verdict.against)
        };
        println!(
            "  {:<6} {:<18} {:<10} {:<26} {:>8} {:<24} {} {}",
            if verdict.is_met() { "ok" } else { "missed" },
            target.scenario,
            target.figure,
            verdict.program,
            readable(verdict.ratio),
            versus,
            if target.at_least { ">=" } else { "<=" },
            target.bound,
        );
    }
    let met = verdicts.iter().filter(|verdict| verdict.is_met()).count();
    println!("{met} of {} targets met", verdicts.len());
}

/// The medians as one table of Markdown, with a column for each program.
pub fn markdown(results: &[Results]) -> String {
    let mut labels: Vec<&str> = Vec::new();
    for (program, _) in results.iter().flat_map(|result| &result.programs) {
        if !program.is_copas() && !labels.contains(&program.label.as_str()) {
            labels.push(&program.label);
        }
    }
    let mut text = format!(
        "| | {} |\n| --- |{}\n",
        labels.join(" | "),
        " ---: |".repeat(labels.len())
    );
    for result in results {
        for (name, unit) in result.scenario.columns {
            let mut row = |title: &str, find: &dyn Fn(&Program, &str) -> bool| {
                let cells: Vec<String> = labels
                    .iter()
                    .map(|label| {
                        let mut programs = result.programs.iter();
                        let found = programs.find(|(program, _)| find(program, label));
                        let values = found.and_then(|(_, figures)| figures.get(*name));
                        values.map_or(String::new(), |values| readable(median(values)))
                    })
                    .collect();
                if cells.iter().any(|cell| !cell.is_empty()) {
                    let _ = writeln!(text, "| {title}: {unit} | {} |", cells.join(" | "));
                }
            };
            row(result.scenario.title, &|program, label| {
                program.label == label
            });
            row("under Copas", &|program, label| {
                program.is_copas() && program.is_on_lua_of(label)
            });
        }
    }
    text
}

/// All figures of each run.
pub fn json(results: &[Results], verdicts: &[Verdict]) -> String {
    let scenarios = results.iter().map(|result| {
        let programs = result.programs.iter().map(|(program, figures)| {
            let figures = figures.iter().map(|(name, values)| {
                let runs = values.iter().map(f64::to_string).collect();
                (
                    name.as_str(),
                    object([("median", number(median(values))), ("runs", list(runs))]),
                )
            });
            (program.label.as_str(), object(figures))
        });
        (result.scenario.name, object(programs))
    });
    let verdicts = verdicts.iter().map(|verdict| {
        object([
            ("scenario", string(verdict.target.scenario)),
            ("figure", string(verdict.target.figure)),
            ("program", string(&verdict.program)),
            ("against", string(&verdict.against)),
            ("ratio", number(verdict.ratio)),
            (
                if verdict.target.at_least {
                    "at_least"
                } else {
                    "at_most"
                },
                number(verdict.target.bound),
            ),
            ("met", verdict.is_met().to_string()),
        ])
    });
    let mut text = object([
        ("machine", string(&machine())),
        ("scenarios", object(scenarios)),
        ("targets", list(verdicts.collect())),
    ]);
    text.push('\n');
    text
}

/// The processor, the number of processors, and the kernel.
fn machine() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = processors
        .lines()
        .filter_map(|line| {
            line.strip_prefix("model name")?
                .split_once(": ")
                .map(|(_, model)| model)
        })
        .collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{} x {}, Linux {}",
        models.len(),
        models.first().unwrap_or(&"?"),
        kernel.trim()
    )
}

fn object<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let fields: Vec<_> = fields
        .into_iter()
        .map(|(name, value)| format!("{}: {value}", string(name)))
        .collect();
    format!("{{{}}}", fields.join(", "))
}

fn list(items: Vec<String>) -> String {
    format!("[{}]", items.join(", "))
}

fn number(number: f64) -> String {
    if number.is_finite() {
        number.to_string()
    } else {
        "null".into()
    }
}

fn string(text: &str) -> String {
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            character if character < ' ' => {
                let _ = write!(out, "\\u{:04x}", character as u32);
            }
            character => out.push(character),
        }
    }
    out.push('"');
    out
}
