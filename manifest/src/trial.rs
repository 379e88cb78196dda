//! `[trial]`: for how long a new revision is watched, and when it goes back.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::parse::{Reader, Span};
use crate::{Percent, Trial, units};

const TIME: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
const FAILURES: RangeInclusive<u8> = 1..=100;

impl Reader<'_> {
    pub(crate) fn trial(&mut self, (table, _): (&DeTable<'_>, Span)) -> Trial {
        self.check_keys(table, "[trial]");
        let default = Trial::default();
        Trial {
            time: self.duration(table, "time", "trial.time", TIME, default.time),
            failures: self.failures(table).unwrap_or(default.failures),
            calls: self.count(table, "calls", "trial.calls", 1..=1_000_000, default.calls),
        }
    }

    fn failures(&mut self, table: &DeTable<'_>) -> Option<Percent> {
        const PATH: &str = "trial.failures";
        let value = table.get("failures")?;
        let text = match value.get_ref() {
            DeValue::String(text) => text,
            DeValue::Integer(number) => {
                let help = format!("write \"{}%\"", number.as_str());
                self.wrong_type(PATH, "a share", value, &help);
                return None;
            }
            _ => {
                self.wrong_type(PATH, "a share", value, units::PERCENT_HELP);
                return None;
            }
        };
        match text.parse::<Percent>() {
            Ok(share) if FAILURES.contains(&share.number()) => Some(share),
            Ok(_) => {
                let (least, most) = (FAILURES.start(), FAILURES.end());
                self.beyond(
                    PATH,
                    text,
                    format!("{least}%"),
                    format!("{most}%"),
                    value.span(),
                );
                None
            }
            Err(help) => {
                self.problem(value.span(), format!("{PATH} cannot be {text:?}"), help);
                None
            }
        }
    }
}
