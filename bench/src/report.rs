//! What was measured, as tables and as JSON.

use std::fs;

use serde::Serialize;

/// One figure of a table.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Column {
    /// What it is, with its unit.
    pub(crate) name: &'static str,
    /// Digits behind the point.
    pub(crate) digits: usize,
    /// Whether its ratio to the baseline is shown too.
    pub(crate) ratio: bool,
}

/// One turn of one system: a value for each column, where there is one.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Turn {
    /// The system.
    pub(crate) system: String,
    /// Its figures, in order of the columns.
    pub(crate) values: Vec<Option<f64>>,
}

/// The same work by several systems, in turns.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Table {
    /// What is done.
    pub(crate) title: String,
    /// The system that ratios are to.
    pub(crate) baseline: String,
    /// What is measured.
    pub(crate) columns: Vec<Column>,
    /// All turns of all rounds.
    pub(crate) turns: Vec<Turn>,
}

impl Column {
    /// A figure, shown with its ratio to the baseline's.
    pub(crate) const fn ratio(name: &'static str, digits: usize) -> Self {
        Self {
            name,
            digits,
            ratio: true,
        }
    }

    /// A figure.
    pub(crate) const fn plain(name: &'static str, digits: usize) -> Self {
        Self {
            name,
            digits,
            ratio: false,
        }
    }
}

impl Table {
    /// An empty table.
    pub(crate) fn new(title: impl Into<String>, baseline: &str, columns: &[Column]) -> Self {
        Self {
            title: title.into(),
            baseline: baseline.to_owned(),
            columns: columns.to_vec(),
            turns: Vec::new(),
        }
    }

    /// Adds a turn.
    pub(crate) fn add(&mut self, system: &str, values: Vec<Option<f64>>) {
        assert_eq!(values.len(), self.columns.len(), "a value for each column");
        self.turns.push(Turn {
            system: system.to_owned(),
            values,
        });
    }

    /// All values of a system in a column, the smallest first.
    fn values(&self, system: &str, column: usize) -> Vec<f64> {
        let turns = self.turns.iter().filter(|turn| turn.system == system);
        let mut values: Vec<f64> = turns
            .filter_map(|turn| turn.values[column])
            .filter(|value| value.is_finite())
            .collect();
        values.sort_by(f64::total_cmp);
        values
    }

    fn median(&self, system: &str, column: usize) -> Option<f64> {
        let values = self.values(system, column);
        values.get(values.len() / 2).copied()
    }

    /// The systems, in the order in which they first took a turn.
    fn systems(&self) -> Vec<&str> {
        let mut systems: Vec<&str> = Vec::new();
        for turn in &self.turns {
            if !systems.contains(&turn.system.as_str()) {
                systems.push(&turn.system);
            }
        }
        systems
    }

    /// As lines: a system each, medians of the rounds, the smallest and largest
    /// of the first column behind them.
    fn print(&self) {
        print!("\n{:<42}", self.title);
        for column in &self.columns {
            print!(" {:>w$}", column.name, w = column.width());
        }
        println!("   min - max");
        for system in self.systems() {
            print!("  {system:<40}");
            for (number, column) in self.columns.iter().enumerate() {
                let own = self.median(system, number);
                print!(" {:>w$}", column.show(own), w = column.value_width());
                if column.ratio {
                    let base = self.median(&self.baseline, number);
                    let ratio = own.zip(base).map(|(own, base)| own / base);
                    let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}x"));
                    print!(" {ratio:>7}");
                }
            }
            let first = self.values(system, 0);
            let show = |value: Option<&f64>| self.columns[0].show(value.copied());
            println!("   {} - {}", show(first.first()), show(first.last()));
        }
    }
}

impl Column {
    fn show(&self, value: Option<f64>) -> String {
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

/// Prints the tables and writes them to `target/bench/NAME.json`.
pub(crate) fn show(name: &str, tables: &[Table]) {
    for table in tables {
        table.print();
    }
    let folder = tidemill_tests::target().join("bench");
    let file = folder.join(format!("{name}.json"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(&file, serde_json::to_vec_pretty(tables).unwrap()).unwrap();
    println!("\n{}", file.display());
}
