//! What was measured, as a table and as JSON.

use std::fs;
use std::time::Duration;

use serde::Serialize;

/// One turn of one system.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Turn {
    pub(crate) system: &'static str,
    pub(crate) per_second: f64,
    pub(crate) cpu_us: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p99_ms: Option<f64>,
}

/// A scenario: the same work by the native system and by Tidemill, in turns.
#[derive(Debug, Serialize)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) turns: Vec<Turn>,
}

impl Scenario {
    fn median(&self, system: &str, of: impl Fn(&Turn) -> Option<f64>) -> Option<f64> {
        let turns = self.turns.iter().filter(|turn| turn.system == system);
        let mut values: Vec<f64> = turns.filter_map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }
}

/// Prints the scenarios and writes them to `target/bench/NAME.json`.
pub(crate) fn show(name: &str, unit: &str, scenarios: &[Scenario]) {
    println!(
        "\n{:<28} {:<9} {:>12} {:>10} {:>9} {:>9}",
        "",
        "",
        format!("{unit}/s"),
        "CPU us",
        "p50 ms",
        "p99 ms"
    );
    for scenario in scenarios {
        for system in ["native", "tidemill"] {
            let of = |of: fn(&Turn) -> Option<f64>| scenario.median(system, of);
            let show = |value: Option<f64>, digits: usize| {
                value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
            };
            println!(
                "{:<28} {:<9} {:>12} {:>10} {:>9} {:>9}",
                if system == "native" {
                    scenario.name
                } else {
                    ""
                },
                system,
                show(of(|turn| Some(turn.per_second)), 0),
                show(of(|turn| Some(turn.cpu_us)), 1),
                show(of(|turn| turn.p50_ms), 2),
                show(of(|turn| turn.p99_ms), 2),
            );
        }
        let ratio = |of: fn(&Turn) -> Option<f64>| {
            let value = |system| scenario.median(system, of).unwrap_or(f64::NAN);
            value("tidemill") / value("native")
        };
        println!(
            "{:<28} {:<9} {:>11.2}x {:>9.2}x",
            "",
            "ratio",
            ratio(|turn| Some(turn.per_second)),
            ratio(|turn| Some(turn.cpu_us)),
        );
    }
    let folder = tidemill_tests::target().join("bench");
    let file = folder.join(format!("{name}.json"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(&file, serde_json::to_vec_pretty(scenarios).unwrap()).unwrap();
    println!("\n{}", file.display());
}

/// CPU time that a process has spent, its own and the system's for it.
pub(crate) fn cpu(process: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name, in parentheses, may have spaces.
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // The kernel counts in hundredths of a second towards user space.
    Duration::from_millis(ticks * 10)
}
