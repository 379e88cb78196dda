//! `docs/performance.md`: what was measured goes between its markers, what
//! people wrote around them stays.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use tidemill_tests::root;

use crate::circumstances::Circumstances;
use crate::goals::{Against, GOALS, Goal, Verdict};
use crate::plot;
use crate::report::{self, Report, Table, grouped};

/// Writes the page's parts and the plots from `target/bench/*.json`.
pub(crate) fn write() {
    let reports = read(&report::folder());
    let file = root().join("docs/performance.md");
    let mut page = fs::read_to_string(&file).unwrap();
    let plots = root().join("docs/performance");
    fs::create_dir_all(&plots).unwrap();
    let mut parts = vec![
        ("goals".to_owned(), goals(&reports)),
        ("machine".to_owned(), machine(&reports)),
    ];
    for report in &reports {
        for table in &report.tables {
            let svg = plot::svg(table).unwrap();
            fs::write(plots.join(format!("{}.svg", table.id)), svg).unwrap();
        }
        parts.push((report.name.clone(), scenario(report)));
    }
    for (name, text) in parts {
        match replaced(&page, &name, &text) {
            Some(with) => page = with,
            None => eprintln!(
                "docs/performance.md has no place for {name}: {}",
                begin(&name)
            ),
        }
    }
    fs::write(&file, page).unwrap();
    println!("docs/performance.md, from {} reports", reports.len());
}

/// All reports of a folder, by name.
fn read(folder: &Path) -> Vec<Report> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut reports: Vec<Report> = files
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .filter_map(|path| {
            let report = serde_json::from_slice(&fs::read(&path).unwrap());
            report
                .inspect_err(|error| eprintln!("{} is no report: {error}", path.display()))
                .ok()
        })
        .collect();
    reports.sort_by(|one, other| one.name.cmp(&other.name));
    reports
}

fn begin(name: &str) -> String {
    format!("<!-- measured: {name} -->")
}

const END: &str = "<!-- end -->";

/// The page with other text between a part's markers; none if it has no such part.
fn replaced(page: &str, name: &str, text: &str) -> Option<String> {
    let begin = begin(name);
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!(
        "{before}{begin}\n\n{}\n\n{END}{after}",
        text.trim()
    ))
}

/// The table of the goals.
fn goals(reports: &[Report]) -> String {
    let mut text =
        String::from("| what | goal | measured | rounds | reached |\n|---|---|---|---|---|\n");
    for goal in GOALS {
        let verdict = goal.judge(reports).unwrap_or_else(|error| {
            eprintln!("a goal is of what there is not: {error}");
            Verdict::NotMeasured
        });
        let _ = writeln!(text, "{}", goal_row(goal, verdict));
    }
    text
}

fn goal_row(goal: &Goal, verdict: Verdict) -> String {
    let unit = match goal.against {
        Against::Nothing(unit) => format!(" {unit}"),
        _ => String::new(),
    };
    let bound = format!("{}{unit}", goal.bound.show());
    match verdict {
        Verdict::NotMeasured => format!("| {} | {bound} | not measured | | |", goal.text),
        Verdict::Measured { figure, reached } => {
            let digits = if figure.most >= 20.0 { 0 } else { 2 };
            format!(
                "| {} | {bound} | **{:.digits$}**{unit} | {:.digits$} to {:.digits$} | {} |",
                goal.text,
                figure.median,
                figure.least,
                figure.most,
                if reached { "yes" } else { "**no**" },
            )
        }
    }
}

/// What everything was measured on.
fn machine(reports: &[Report]) -> String {
    let Some(last) = reports
        .iter()
        .map(|report| &report.circumstances)
        .max_by(|one, other| one.when.cmp(&other.when))
    else {
        return String::new();
    };
    let versions = last.versions.iter();
    let versions: Vec<String> = versions.map(|(name, v)| format!("{name} {v}")).collect();
    format!("{}.\n\n{}.", last.machine(), versions.join(", "))
}

/// The tables and plots of a report.
fn scenario(report: &Report) -> String {
    let mut text = String::new();
    for table in &report.tables {
        let _ = write!(
            text,
            "**{}**\n\n![{}](performance/{}.svg)\n\n{}\n",
            table.title,
            table.title,
            table.id,
            markdown(table)
        );
    }
    let _ = writeln!(text, "{}", made(&report.circumstances, report));
    text
}

/// When it was measured, of what, and how much.
fn made(circumstances: &Circumstances, report: &Report) -> String {
    let rounds = report.tables.iter().flat_map(|table| {
        let rows = table.rows();
        let rounds = rows.into_iter().map(|row| table.values(row, 0).len());
        rounds.collect::<Vec<_>>()
    });
    let settings = circumstances.settings.iter();
    let settings: String = settings
        .map(|(name, value)| format!(", `{name}={value}`"))
        .collect();
    format!(
        "<sub>{}, commit {}, {} rounds{settings}</sub>",
        circumstances.when,
        circumstances.commit,
        rounds.max().unwrap_or_default(),
    )
}

fn markdown(table: &Table) -> String {
    let mut text = String::from("| |");
    for column in &table.columns {
        let _ = write!(text, " {} |", column.name);
    }
    let _ = write!(text, " {}, rounds |\n|---|", table.columns[0].name);
    text.push_str(&"---:|".repeat(table.columns.len() + 1));
    text.push('\n');
    for row in table.rows() {
        let _ = write!(text, "| {} |", table.label(row));
        for (number, column) in table.columns.iter().enumerate() {
            let own = table.spread(row, number).map(|spread| spread.median);
            let _ = write!(text, " {}", figure(&column.show(own)));
            let ratio = table.ratio(row, number).filter(|_| column.ratio);
            if let Some(ratio) = ratio.filter(|_| row.system != table.baseline) {
                let _ = write!(text, " ({:.2}x)", ratio.median);
            }
            text.push_str(" |");
        }
        let column = &table.columns[0];
        let spread = table.spread(row, 0).map_or(String::new(), |spread| {
            let ends = [spread.least, spread.most].map(|end| figure(&column.show(Some(end))));
            ends.join(" to ")
        });
        let _ = writeln!(text, " {spread} |");
    }
    text
}

/// A figure as it is shown, its thousands apart if it is a whole number.
fn figure(shown: &str) -> String {
    let number = shown.parse::<i64>();
    number.map_or(shown.to_owned(), |number| grouped(number as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goals::Bound;
    use crate::report::{Column, Spread};

    #[test]
    fn only_what_is_between_markers_is_replaced() {
        let page =
            "a\n<!-- measured: x -->\nold\n<!-- end -->\nb\n<!-- measured: y -->\n<!-- end -->\n";
        let with = replaced(page, "x", "new\n").unwrap();
        assert_eq!(
            with,
            "a\n<!-- measured: x -->\n\nnew\n\n<!-- end -->\nb\n<!-- measured: y -->\n<!-- end -->\n"
        );
        assert_eq!(replaced(&with, "x", "new").unwrap(), with);
        assert_eq!(replaced(page, "z", "new"), None);
    }

    #[test]
    fn a_goal_is_a_line_with_its_rounds() {
        let goal = Goal {
            text: "GET",
            bound: Bound::Below(300.0),
            table: "t",
            column: "c",
            system: "s",
            against: Against::Nothing("ms"),
        };
        let figure = Spread::of([100.0, 310.0, 320.0]).unwrap();
        let measured = Verdict::Measured {
            figure,
            reached: false,
        };
        assert_eq!(
            goal_row(&goal, measured),
            "| GET | < 300 ms | **310** ms | 100 to 320 | **no** |"
        );
        assert_eq!(
            goal_row(&goal, Verdict::NotMeasured),
            "| GET | < 300 ms | not measured | | |"
        );
    }

    #[test]
    fn a_table_has_medians_ratios_and_the_rounds() {
        let columns = [Column::ratio("requests/s", 0), Column::plain("p50 ms", 2)];
        let mut table = Table::new("GET", "native", &columns);
        table.add("native", vec![Some(20_000.0), Some(0.5)]);
        table.add("Tidemill", vec![Some(15_000.0), None]);
        assert_eq!(
            markdown(&table),
            "| | requests/s | p50 ms | requests/s, rounds |\n|---|---:|---:|---:|\n\
             | native | 20,000 | 0.50 | 20,000 to 20,000 |\n\
             | Tidemill | 15,000 (0.75x) | - | 15,000 to 15,000 |\n"
        );
    }
}
