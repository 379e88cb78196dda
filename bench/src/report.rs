//! What was measured, as tables and as JSON. What becomes of it in
//! `docs/performance.md` is in `page`, `goals` and `plot`.

use std::borrow::Cow;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::circumstances::Circumstances;
use crate::perf;

/// One figure of a table.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Column {
    /// What it is, with its unit.
    pub(crate) name: Cow<'static, str>,
    /// Digits behind the point.
    pub(crate) digits: usize,
    /// Whether its ratio to the baseline is shown too.
    pub(crate) ratio: bool,
}

/// One turn of one system: a value for each column, where there is one.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Turn {
    /// The system.
    pub(crate) system: String,
    /// Where on the axis, in a table that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<f64>,
    /// Its figures, in order of the columns.
    pub(crate) values: Vec<Option<f64>>,
}

/// The same work by several systems, in turns.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Table {
    /// What goals and files call it: `get-text`.
    pub(crate) id: String,
    /// What is done.
    pub(crate) title: String,
    /// The system that ratios are to.
    pub(crate) baseline: String,
    /// What grows from turn to turn, with its unit, if something does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) axis: Option<String>,
    /// What is measured.
    pub(crate) columns: Vec<Column>,
    /// All turns of all rounds.
    pub(crate) turns: Vec<Turn>,
}

/// All tables of one measurement, and what they were made with.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    /// Its name: that of the file and of the part of `make bench`.
    pub(crate) name: String,
    /// When, where and of what.
    pub(crate) circumstances: Circumstances,
    pub(crate) tables: Vec<Table>,
}

/// A row of a table: a system, and where it is on the axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Row<'a> {
    pub(crate) system: &'a str,
    pub(crate) at: Option<f64>,
}

/// What several rounds came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl Column {
    /// A figure, shown with its ratio to the baseline's.
    pub(crate) const fn ratio(name: &'static str, digits: usize) -> Self {
        Self {
            name: Cow::Borrowed(name),
            digits,
            ratio: true,
        }
    }

    /// A figure.
    pub(crate) const fn plain(name: &'static str, digits: usize) -> Self {
        Self {
            name: Cow::Borrowed(name),
            digits,
            ratio: false,
        }
    }

    /// A value as the column shows it.
    pub(crate) fn show(&self, value: Option<f64>) -> String {
        let digits = self.digits;
        value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
    }

    fn value_width(&self) -> usize {
        let name = self.name.chars().count();
        if self.ratio {
            name.saturating_sub(8).max(8)
        } else {
            name.max(8)
        }
    }

    fn width(&self) -> usize {
        self.value_width() + if self.ratio { 8 } else { 0 }
    }
}

impl Spread {
    /// Of values in any order; none if there are none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(*values.get(middle.checked_sub(1)?)?, values[middle])
        } else {
            values[middle]
        };
        Some(Self {
            least: *values.first()?,
            median,
            most: *values.last()?,
        })
    }
}

impl Table {
    /// An empty table. Its id is made from the title, so that a title with a
    /// number that may be set wants [`Table::called`].
    pub(crate) fn new(title: impl Into<String>, baseline: &str, columns: &[Column]) -> Self {
        let title = title.into();
        Self {
            id: slug(&title),
            title,
            baseline: baseline.to_owned(),
            axis: None,
            columns: columns.to_vec(),
            turns: Vec::new(),
        }
    }

    /// With another id.
    pub(crate) fn called(mut self, id: &str) -> Self {
        id.clone_into(&mut self.id);
        self
    }

    /// A table of systems that are measured at several points of an axis. Ratios
    /// are to the baseline at the same point.
    pub(crate) fn over(mut self, axis: &str) -> Self {
        self.axis = Some(axis.to_owned());
        self
    }

    /// Adds a turn.
    pub(crate) fn add(&mut self, system: &str, values: Vec<Option<f64>>) {
        self.push(system, None, values);
    }

    /// Adds a turn at a point of the axis.
    pub(crate) fn add_at(&mut self, system: &str, at: f64, values: Vec<Option<f64>>) {
        assert!(self.axis.is_some(), "{:?} has no axis", self.title);
        self.push(system, Some(at), values);
    }

    fn push(&mut self, system: &str, at: Option<f64>, values: Vec<Option<f64>>) {
        assert_eq!(values.len(), self.columns.len(), "a value for each column");
        let system = system.to_owned();
        self.turns.push(Turn { system, at, values });
    }

    /// Which column has this name.
    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// The rows, in the order in which they first took a turn; those of a table
    /// with an axis along it.
    pub(crate) fn rows(&self) -> Vec<Row<'_>> {
        let mut rows: Vec<Row<'_>> = Vec::new();
        for turn in &self.turns {
            let row = Row {
                system: &turn.system,
                at: turn.at,
            };
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        rows.sort_by(|one, other| {
            let at = |row: &Row<'_>| row.at.unwrap_or_default();
            at(one).total_cmp(&at(other))
        });
        rows
    }

    /// The systems, in the order of their rows.
    pub(crate) fn systems(&self) -> Vec<&str> {
        let mut systems: Vec<&str> = Vec::new();
        for turn in &self.turns {
            if !systems.contains(&turn.system.as_str()) {
                systems.push(&turn.system);
            }
        }
        systems
    }

    /// All values of a row in a column, round by round. Where a round has none
    /// that counts, there is a gap, so that those of two rows are of one round.
    pub(crate) fn values(&self, row: Row<'_>, column: usize) -> Vec<Option<f64>> {
        self.turns
            .iter()
            .filter(|turn| turn.system == row.system && turn.at == row.at)
            .map(|turn| turn.values[column].filter(|value| value.is_finite()))
            .collect()
    }

    /// What the rounds of a row came to.
    pub(crate) fn spread(&self, row: Row<'_>, column: usize) -> Option<Spread> {
        Spread::of(self.values(row, column).into_iter().flatten())
    }

    /// What the ratio of a row to the baseline came to, made round by round: a
    /// machine that is slow for a while is slow for both.
    pub(crate) fn ratio(&self, row: Row<'_>, column: usize) -> Option<Spread> {
        let base = Row {
            system: &self.baseline,
            at: row.at,
        };
        Spread::of(ratios(
            &self.values(row, column),
            &self.values(base, column),
        ))
    }

    /// How a row is called.
    pub(crate) fn label(&self, row: Row<'_>) -> String {
        match (&self.axis, row.at) {
            (Some(axis), Some(at)) => format!("{}, {} {axis}", row.system, grouped(at)),
            _ => row.system.to_owned(),
        }
    }

    /// As lines: a row each, medians of the rounds, the smallest and largest of
    /// the first column behind them.
    fn print(&self) {
        print!("\n{:<42}", self.title);
        for column in &self.columns {
            print!(" {:>w$}", column.name, w = column.width());
        }
        println!("   min - max");
        for row in self.rows() {
            print!("  {:<40}", self.label(row));
            for (number, column) in self.columns.iter().enumerate() {
                let own = self.spread(row, number).map(|spread| spread.median);
                print!(" {:>w$}", column.show(own), w = column.value_width());
                if column.ratio {
                    let ratio = self.ratio(row, number);
                    let ratio = ratio.map_or(String::new(), |r| format!("{:.2}x", r.median));
                    print!(" {ratio:>7}");
                }
            }
            let first = self.spread(row, 0);
            let show = |value: Option<f64>| self.columns[0].show(value);
            let (least, most) = (first.map(|s| s.least), first.map(|s| s.most));
            println!("   {} - {}", show(least), show(most));
        }
    }
}

/// Values against those of the same rounds.
pub(crate) fn ratios(own: &[Option<f64>], base: &[Option<f64>]) -> Vec<f64> {
    let pairs = own.iter().zip(base);
    pairs
        .filter_map(|(own, base)| own.zip(*base))
        .map(|(own, base)| own / base)
        .collect()
}

/// A whole number with its thousands apart; others as they are.
pub(crate) fn grouped(number: f64) -> String {
    if number.fract() != 0.0 {
        return number.to_string();
    }
    let digits = format!("{:.0}", number.abs());
    let mut grouped = String::from(if number < 0.0 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A title as a word for files and links: `GET text` is `get-text`.
pub(crate) fn slug(title: &str) -> String {
    let words = title
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_ascii_lowercase()
}

/// Where reports are.
pub(crate) fn folder() -> PathBuf {
    tidemill_tests::target().join("bench")
}

/// Prints the tables and writes them to `target/bench/NAME.json`.
pub(crate) fn show(name: &str, tables: &[Table]) {
    for table in tables {
        table.print();
    }
    if perf::samples().is_some() {
        // It was slower for that.
        return;
    }
    let report = Report {
        name: name.to_owned(),
        circumstances: Circumstances::now(),
        tables: tables.to_vec(),
    };
    let file = folder().join(format!("{name}.json"));
    fs::create_dir_all(folder()).unwrap();
    fs::write(&file, serde_json::to_vec_pretty(&report).unwrap()).unwrap();
    println!("\n{}", file.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(turns: &[(&str, f64)]) -> Table {
        let mut table = Table::new("GET text", "native", &[Column::ratio("requests/s", 0)]);
        for (system, value) in turns {
            table.add(system, vec![Some(*value)]);
        }
        table
    }

    const fn row(system: &str) -> Row<'_> {
        Row { system, at: None }
    }

    #[test]
    fn an_id_is_a_word() {
        assert_eq!(slug("passed on, exactly once"), "passed-on-exactly-once");
        assert_eq!(slug("Tidemill's two"), "tidemill-s-two");
    }

    #[test]
    fn a_spread_has_the_middle_of_its_values() {
        let spread = Spread::of([3.0, 1.0, f64::NAN, 2.0]).unwrap();
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of([1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_ratio_is_of_values_of_one_round() {
        // The machine is half as fast in the second round.
        let table = table(&[
            ("native", 100.0),
            ("tidemill", 70.0),
            ("native", 50.0),
            ("tidemill", 40.0),
            ("native", 100.0),
            ("tidemill", 60.0),
        ]);
        assert_eq!(table.ratio(row("tidemill"), 0).unwrap().median, 0.7);
    }

    #[test]
    fn a_round_without_a_value_is_left_out_of_the_ratio() {
        let mut table = table(&[("native", 100.0), ("native", 50.0)]);
        table.add("tidemill", vec![None]);
        table.add("tidemill", vec![Some(25.0)]);
        assert_eq!(table.ratio(row("tidemill"), 0).unwrap().most, 0.5);
    }

    #[test]
    fn a_ratio_is_to_the_baseline_at_the_same_point() {
        let mut table = table(&[]).over("connections");
        table.add_at("native", 10.0, vec![Some(10.0)]);
        table.add_at("native", 1000.0, vec![Some(20.0)]);
        table.add_at("tidemill", 1000.0, vec![Some(5.0)]);
        let row = Row {
            system: "tidemill",
            at: Some(1000.0),
        };
        assert_eq!(table.ratio(row, 0).unwrap().median, 0.25);
        assert_eq!(table.label(row), "tidemill, 1,000 connections");
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let report = Report {
            name: "requests".to_owned(),
            circumstances: Circumstances::default(),
            tables: vec![table(&[("native", 1.0)])],
        };
        let text = serde_json::to_string(&report).unwrap();
        let again: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(again.tables[0].turns[0].values, [Some(1.0)]);
    }
}
