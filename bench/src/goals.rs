//! What Tidemill is to reach, and whether it did. The goals are data: a table, a
//! column and two systems of it.

use crate::report::{Report, Row, Spread, Table, ratios};

/// A goal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    /// What is compared with what.
    pub(crate) text: &'static str,
    pub(crate) bound: Bound,
    /// The id of the table that has it.
    pub(crate) table: &'static str,
    pub(crate) column: &'static str,
    /// The system that has to reach it.
    pub(crate) system: &'static str,
    pub(crate) against: Against,
}

/// How much it has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

/// What a goal's figure is divided by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Against {
    /// Another system, in the same round.
    System(&'static str),
    /// The best in each round of all systems whose names begin so.
    BestOf(&'static str),
    /// Nothing: the figure itself is held against the bound, in this unit.
    Nothing(&'static str),
}

/// What came of a goal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    NotMeasured,
    Measured { figure: Spread, reached: bool },
}

/// All of them.
pub(crate) const GOALS: &[Goal] = &[
    Goal {
        text: "GET text through a warm own-world handler, against native hyper",
        bound: Bound::AtLeast(0.65),
        table: "get-text",
        column: "requests/s",
        system: "Tidemill",
        against: Against::System("native hyper"),
    },
    Goal {
        text: "the same against `wasmtime serve`, the better of its components",
        bound: Bound::AtLeast(1.8),
        table: "get-text",
        column: "requests/s",
        system: "Tidemill",
        against: Against::BestOf("wasmtime serve"),
    },
    Goal {
        text: "CPU time of that request against `wasmtime serve`'s best",
        bound: Bound::AtMost(0.5),
        table: "get-text",
        column: "CPU us",
        system: "Tidemill",
        against: Against::BestOf("wasmtime serve"),
    },
    Goal {
        text: "POST JSON through the SDK's axum router, against native hyper",
        bound: Bound::AtLeast(0.5),
        table: "post-json",
        column: "requests/s",
        system: "Tidemill, axum router",
        against: Against::System("native hyper"),
    },
    Goal {
        text: "POST that publishes (acks=all), against native hyper + rdkafka, 32 connections",
        bound: Bound::AtLeast(0.9),
        table: "publish-32",
        column: "requests/s",
        system: "Tidemill",
        against: Against::BestOf("hyper + rdkafka"),
    },
    Goal {
        text: "the same at 128 connections",
        bound: Bound::AtLeast(0.9),
        table: "publish-128",
        column: "requests/s",
        system: "Tidemill",
        against: Against::BestOf("hyper + rdkafka"),
    },
    Goal {
        text: "POST that publishes, against FastAPI + aiokafka, 32 connections",
        bound: Bound::AtLeast(8.0),
        table: "publish-32",
        column: "requests/s",
        system: "Tidemill",
        against: Against::System("FastAPI + aiokafka"),
    },
    Goal {
        text: "the same at 128 connections",
        bound: Bound::AtLeast(8.0),
        table: "publish-128",
        column: "requests/s",
        system: "Tidemill",
        against: Against::System("FastAPI + aiokafka"),
    },
    Goal {
        text: "an event passed on, exactly once, against the bare rdkafka loop at Tidemill's transaction sizes",
        bound: Bound::AtLeast(0.7),
        table: "passed-on-exactly-once",
        column: "events/s",
        system: "Tidemill, exactly once",
        against: Against::System("bare, in transactions as Tidemill's"),
    },
    Goal {
        text: "the same against Kafka Streams `exactly_once_v2`, tuned and warm",
        bound: Bound::AtLeast(1.1),
        table: "passed-on-exactly-once",
        column: "warm/s",
        system: "Tidemill, exactly once",
        against: Against::BestOf("Kafka Streams"),
    },
    Goal {
        text: "count per key, every count published, exactly once, against Kafka Streams without its cache, its better store, warm",
        bound: Bound::AtLeast(1.5),
        table: "counted-per-key-exactly-once",
        column: "warm/s",
        system: "Tidemill, exactly once",
        against: Against::BestOf("Kafka Streams"),
    },
    Goal {
        text: "the same, final counts only, against Kafka Streams with its cache",
        bound: Bound::AtLeast(1.0),
        table: "final-counts-exactly-once",
        column: "warm/s",
        system: "Tidemill, exactly once",
        against: Against::BestOf("Kafka Streams"),
    },
    Goal {
        text: "exactly once against at least once",
        bound: Bound::AtLeast(0.8),
        table: "passed-on-tidemill-s-two",
        column: "events/s",
        system: "Tidemill, exactly once",
        against: Against::System("Tidemill, at least once"),
    },
    Goal {
        text: "latency of an event at 100/s, exactly once: p50 against the bare rdkafka loop",
        bound: Bound::AtMost(1.5),
        table: "latency-at-100-events-s",
        column: "p50 ms",
        system: "Tidemill, exactly once",
        against: Against::System("bare, exactly once"),
    },
    Goal {
        text: "the same: p99 against Kafka Streams with its best commit interval",
        bound: Bound::Below(1.0),
        table: "latency-at-100-events-s",
        column: "p99 ms",
        system: "Tidemill, exactly once",
        against: Against::BestOf("Kafka Streams"),
    },
    Goal {
        text: "a fresh instance for each call, against a warm one",
        bound: Bound::AtLeast(0.3),
        table: "fresh-get-text",
        column: "requests/s",
        system: "Tidemill, fresh",
        against: Against::System("Tidemill, warm"),
    },
    Goal {
        text: "idle service of 1,000: memory beyond its compiled code",
        bound: Bound::Below(50.0),
        table: "start-with-services-for-requests-alone",
        column: "KB a service",
        system: "1000 of them",
        against: Against::Nothing("KB"),
    },
    Goal {
        text: "start of a host with 100 services in its cache, to ready",
        bound: Bound::Below(300.0),
        table: "start-with-services-for-requests-alone",
        column: "ready ms",
        system: "100 of them",
        against: Against::Nothing("ms"),
    },
    Goal {
        text: "from deploy to the first answer, on a real Kafka, of code that was compiled before",
        bound: Bound::Below(20.0),
        table: "deploy-kafka",
        column: "ms",
        system: "compiled before",
        against: Against::Nothing("ms"),
    },
    Goal {
        text: "the same of a component that was never compiled",
        bound: Bound::Below(800.0),
        table: "deploy-kafka",
        column: "ms",
        system: "never compiled",
        against: Against::Nothing("ms"),
    },
    Goal {
        text: "the same on another host",
        bound: Bound::Below(2000.0),
        table: "deploy-kafka",
        column: "ms",
        system: "never compiled, on another host",
        against: Against::Nothing("ms"),
    },
    Goal {
        text: "p99 of service A while service B spins on all its slots, against alone",
        bound: Bound::Below(3.0),
        table: "fairness",
        column: "p99 ms",
        system: "A, while B spins",
        against: Against::System("A, alone"),
    },
    Goal {
        text: "cost of an event beside 100 other services, against alone",
        bound: Bound::Below(1.3),
        table: "an-event-beside-other-services",
        column: "CPU us",
        system: "beside 100",
        against: Against::System("alone"),
    },
    Goal {
        text: "cost of an event with 64 partitions, against 1",
        bound: Bound::Below(1.3),
        table: "passed-on-by-partitions",
        column: "CPU us",
        system: "Tidemill, 64 partitions",
        against: Against::System("Tidemill, 1 partitions"),
    },
    Goal {
        text: "cost of an event with 100,000 rows of state, against 1,000",
        bound: Bound::Below(1.3),
        table: "counted-per-key-by-rows-of-the-state",
        column: "CPU us",
        system: "Tidemill, 100000 rows",
        against: Against::System("Tidemill, 1000 rows"),
    },
];

impl Bound {
    /// Whether a figure is good enough.
    fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(least) => figure >= least,
            Self::AtMost(most) => figure <= most,
            Self::Below(limit) => figure < limit,
        }
    }

    /// The better of two figures.
    fn better(self, one: f64, other: f64) -> f64 {
        match self {
            Self::AtLeast(_) => one.max(other),
            Self::AtMost(_) | Self::Below(_) => one.min(other),
        }
    }

    /// As people write it.
    pub(crate) fn show(self) -> String {
        match self {
            Self::AtLeast(least) => format!("≥ {least}"),
            Self::AtMost(most) => format!("≤ {most}"),
            Self::Below(limit) => format!("< {limit}"),
        }
    }
}

impl Goal {
    /// What came of it.
    ///
    /// # Errors
    /// If its table is there, and has not what the goal names.
    pub(crate) fn judge(&self, reports: &[Report]) -> Result<Verdict, String> {
        let mut tables = reports.iter().flat_map(|report| &report.tables);
        let Some(table) = tables.find(|table| table.id == self.table) else {
            return Ok(Verdict::NotMeasured);
        };
        let column = table
            .column(self.column)
            .ok_or_else(|| format!("{}: no column {:?}", self.table, self.column))?;
        let own = self.values(table, self.system, column)?;
        let figures = match self.against {
            Against::Nothing(_) => own.into_iter().flatten().collect(),
            Against::System(other) => ratios(&own, &self.values(table, other, column)?),
            Against::BestOf(begin) => ratios(&own, &self.best(table, begin, column)?),
        };
        Ok(match Spread::of(figures) {
            None => Verdict::NotMeasured,
            Some(figure) => Verdict::Measured {
                figure,
                reached: self.bound.holds(figure.median),
            },
        })
    }

    fn values(
        &self,
        table: &Table,
        system: &str,
        column: usize,
    ) -> Result<Vec<Option<f64>>, String> {
        let values = table.values(Row { system, at: None }, column);
        if values.is_empty() {
            return Err(format!("{}: no system {system:?}", self.table));
        }
        Ok(values)
    }

    /// The best value of each round among systems whose names begin so.
    fn best(&self, table: &Table, begin: &str, column: usize) -> Result<Vec<Option<f64>>, String> {
        let mut best: Vec<Option<f64>> = Vec::new();
        for system in table.systems() {
            if !system.starts_with(begin) {
                continue;
            }
            let values = self.values(table, system, column)?;
            best.resize(best.len().max(values.len()), None);
            for (best, value) in best.iter_mut().zip(values) {
                *best = match (*best, value) {
                    (Some(one), Some(other)) => Some(self.bound.better(one, other)),
                    (one, other) => one.or(other),
                };
            }
        }
        if best.is_empty() {
            return Err(format!("{}: no system {begin:?}…", self.table));
        }
        Ok(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::circumstances::Circumstances;
    use crate::report::Column;

    fn report(turns: &[(&str, f64)]) -> [Report; 1] {
        let mut table = Table::new(
            "GET text",
            "native hyper",
            &[Column::ratio("requests/s", 0)],
        );
        for (system, value) in turns {
            table.add(system, vec![Some(*value)]);
        }
        [Report {
            name: "requests".to_owned(),
            circumstances: Circumstances::default(),
            tables: vec![table],
        }]
    }

    fn reached(verdict: Verdict) -> (f64, bool) {
        match verdict {
            Verdict::Measured { figure, reached } => (figure.median, reached),
            Verdict::NotMeasured => panic!("not measured"),
        }
    }

    #[test]
    fn a_goal_is_judged_by_the_median_of_the_rounds_ratios() {
        let report = report(&[
            ("native hyper", 100.0),
            ("Tidemill", 60.0),
            ("native hyper", 50.0),
            ("Tidemill", 35.0),
            ("native hyper", 100.0),
            ("Tidemill", 70.0),
        ]);
        assert_eq!(reached(GOALS[0].judge(&report).unwrap()), (0.7, true));
    }

    #[test]
    fn the_best_of_several_is_the_best_of_each_round() {
        let report = report(&[
            ("wasmtime serve, 0.2", 10.0),
            ("wasmtime serve, 0.3", 20.0),
            ("Tidemill", 30.0),
        ]);
        assert_eq!(reached(GOALS[1].judge(&report).unwrap()), (1.5, false));
        assert_eq!(Bound::AtMost(1.0).better(1.0, 2.0), 1.0);
    }

    #[test]
    fn a_goal_without_its_table_is_not_measured_and_one_without_its_system_is_an_error() {
        assert_eq!(GOALS[0].judge(&[]), Ok(Verdict::NotMeasured));
        let error = GOALS[0].judge(&report(&[("Tidemill", 1.0)])).unwrap_err();
        assert_eq!(error, "get-text: no system \"native hyper\"");
    }
}
