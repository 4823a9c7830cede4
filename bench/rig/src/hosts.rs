//! The library against the first original in each host, as ratios.

use std::fmt::Write;

use crate::report::readable;
use crate::run::{Figures, Program, Results, median};

/// The columns: the end of a scenario's name, and the title.
pub const COLUMNS: [(&str, &str); 4] = [
    ("receive-0", "receive QoS 0"),
    ("receive-1", "receive QoS 1"),
    ("publish-0", "publish QoS 0"),
    ("publish-1", "publish QoS 1"),
];

/// A host, on one Lua.
pub struct Row {
    /// The host's name.
    pub host: String,
    /// For each column, messages a second and messages a CPU second: how many times those of the original.
    pub ratios: [Option<[f64; 2]>; 4],
}

/// The hosts that were measured.
pub fn rows(results: &[Results]) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |host: &str,
                   scenarios: &str,
                   ours: &dyn Fn(&Program) -> bool,
                   theirs: &dyn Fn(&Program) -> bool| {
        let programs = results.iter().flat_map(|result| &result.programs);
        let mut luas: Vec<_> = programs
            .filter_map(|(program, _)| program.lua.as_ref())
            .collect();
        luas.sort();
        luas.dedup();
        for lua in luas {
            let ratios = COLUMNS.map(|(column, _)| {
                let scenario = format!("{scenarios}{column}");
                let result = results
                    .iter()
                    .find(|result| result.scenario.name == scenario)?;
                let find = |wanted: &dyn Fn(&Program) -> bool| {
                    let mut programs = result.programs.iter();
                    programs
                        .find(|(program, _)| program.lua.as_ref() == Some(lua) && wanted(program))
                };
                ratios(&find(ours)?.1, &find(theirs)?.1)
            });
            if ratios.iter().any(Option::is_some) {
                let lua = if lua == "jit" { "LuaJIT" } else { lua };
                rows.push(Row {
                    host: format!("{host}, {lua}"),
                    ratios,
                });
            }
        }
    };
    add("run_ioloop", "", &|it| it.is_ours(false), &Program::is_fork);
    add(
        "nginx",
        "nginx-",
        &Program::is_in_nginx,
        &Program::is_fork_in_nginx,
    );
    add(
        "nginx's sockets",
        "nginx-",
        &Program::is_on_cosockets,
        &Program::is_fork_in_nginx,
    );
    add(
        "LuaSocket connector",
        "connector-",
        &|it| it.is_by_connector(false),
        &Program::is_fork,
    );
    add(
        "Copas connector",
        "connector-",
        &|it| it.is_by_connector(true),
        &Program::is_fork_in_copas,
    );
    rows
}

fn ratios(ours: &Figures, theirs: &Figures) -> Option<[f64; 2]> {
    let figure = |figures: &Figures, name: &str| figures.get(name).map(|values| median(values));
    Some([
        figure(ours, "rate")? / figure(theirs, "rate")?,
        figure(theirs, "cpu")? / figure(ours, "cpu")?,
    ])
}

/// The rows as a table of Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let titles = COLUMNS.map(|(_, title)| title).join(" | ");
    let mut text = format!(
        "| | {titles} |\n| --- |{}\n",
        " ---: |".repeat(COLUMNS.len())
    );
    for row in rows {
        let cells = row.ratios.map(|ratios| match ratios {
            Some([rate, cpu]) => format!("{} ({})", readable(rate), readable(cpu)),
            None => String::new(),
        });
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} | {} |", row.host, cells.join(" | "));
    }
    text
}
