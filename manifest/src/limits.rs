//! `[limits]`, and the sizes, numbers and durations in it.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::parse::{Reader, Span, integer};
use crate::{Limits, units};

/// The keys of the table.
pub(crate) const KEYS: &[&str] = &[
    "memory",
    "memory-total",
    "time",
    "concurrency",
    "queue",
    "queue-time",
    "instances",
    "reuse",
    "request",
    "response",
    "event",
    "effects",
    "effects-size",
];

/// A call, and the wait for a slot.
const TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(600);

impl Reader<'_> {
    pub(crate) fn limits(&mut self, (table, _): (&DeTable<'_>, Span)) -> Limits {
        self.check_keys(table, "[limits]");
        let default = Limits::default();
        let count = |reader: &mut Self, key, range, default| {
            reader.count(table, key, &format!("limits.{key}"), range, default)
        };
        let time = |reader: &mut Self, key, default| {
            reader.duration(table, key, &format!("limits.{key}"), TIME, default)
        };
        let memory = self.size(table, "memory", 1 << 20..=4 << 30, default.memory);
        let event = self.size(table, "event", 1..=100 << 20, default.event);
        let concurrency = count(self, "concurrency", 1..=10_000, default.concurrency);
        // What is not said gives way to what is.
        let memory_total = default.memory_total.max(memory);
        let effects_size = default.effects_size.max(event);
        let limits = Limits {
            memory,
            memory_total: self.size(table, "memory-total", 1 << 20..=1 << 40, memory_total),
            time: time(self, "time", default.time),
            concurrency,
            queue: count(self, "queue", 0..=100_000, default.queue),
            queue_time: time(self, "queue-time", default.queue_time),
            instances: count(self, "instances", 0..=10_000, concurrency),
            reuse: count(self, "reuse", 1..=1_000_000_000, default.reuse),
            request: self.size(table, "request", 1..=1 << 30, default.request),
            response: self.size(table, "response", 1..=1 << 30, default.response),
            event,
            effects: count(self, "effects", 1..=1_000_000, default.effects),
            effects_size: self.size(table, "effects-size", 1..=1 << 30, effects_size),
        };
        let held = "a handler holds it in its memory: raise memory, or lower this";
        for (key, size) in [
            ("request", limits.request),
            ("response", limits.response),
            ("event", limits.event),
        ] {
            self.fits(table, (key, size), ("memory", limits.memory), held);
        }
        let all = "it is for all instances together: raise memory-total, or lower this";
        let total = ("memory-total", limits.memory_total);
        self.fits(table, ("memory", limits.memory), total, all);
        let each = "it is for all effects of a call: raise effects-size, or lower this";
        let size = ("effects-size", limits.effects_size);
        self.fits(table, ("event", limits.event), size, each);
        limits
    }

    /// Notes a limit that is set higher than the one that it is a part of.
    fn fits(
        &mut self,
        table: &DeTable<'_>,
        (part, size): (&str, u64),
        (whole, bound): (&str, u64),
        help: &str,
    ) {
        // Of two, the part is pointed at if it was written.
        let Some(value) = table.get(part).or_else(|| table.get(whole)) else {
            return;
        };
        if size > bound {
            let message = format!(
                "limits.{part} ({}) is more than limits.{whole} ({})",
                units::show_size(size),
                units::show_size(bound)
            );
            self.problem(value.span(), message, help.to_owned());
        }
    }

    fn size(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> u64 {
        let Some(value) = table.get(key) else {
            return default;
        };
        let path = format!("limits.{key}");
        let read = match value.get_ref() {
            DeValue::Integer(number) => integer(number).unwrap_or(i128::MAX),
            DeValue::String(text) => match units::size(text) {
                Ok(bytes) => i128::from(bytes),
                Err(help) => {
                    self.problem(value.span(), format!("{path} cannot be {text:?}"), help);
                    return default;
                }
            },
            _ => {
                self.wrong_type(&path, "a size", value, units::SIZE_HELP);
                return default;
            }
        };
        self.within(&path, read, range, value.span(), default, |bytes| {
            units::show_size(bytes)
        })
    }

    pub(crate) fn count(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        path: &str,
        range: RangeInclusive<u32>,
        default: u32,
    ) -> u32 {
        let Some(value) = table.get(key) else {
            return default;
        };
        let DeValue::Integer(number) = value.get_ref() else {
            let help = format!("write digits without quotes, such as {key} = {default}");
            self.wrong_type(path, "a whole number", value, &help);
            return default;
        };
        let read = integer(number).unwrap_or(i128::MAX);
        let wide = u64::from(*range.start())..=u64::from(*range.end());
        let number = self.within(path, read, wide, value.span(), default.into(), |n| n);
        u32::try_from(number).unwrap_or(default)
    }

    pub(crate) fn duration(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        path: &str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let Some(value) = table.get(key) else {
            return default;
        };
        let text = match value.get_ref() {
            DeValue::String(text) => text,
            DeValue::Integer(number) => {
                let number = number.as_str();
                let help = format!("which unit? Write \"{number}s\" or \"{number}ms\"");
                self.wrong_type(path, "a duration", value, &help);
                return default;
            }
            _ => {
                self.wrong_type(path, "a duration", value, units::TIME_HELP);
                return default;
            }
        };
        match units::duration(text) {
            Ok(time) if range.contains(&time) => time,
            Ok(_) => {
                let least = units::show_duration(*range.start());
                let most = units::show_duration(*range.end());
                self.beyond(path, text, least, most, value.span());
                default
            }
            Err(help) => {
                self.problem(value.span(), format!("{path} cannot be {text:?}"), help);
                default
            }
        }
    }

    fn within<D: Display>(
        &mut self,
        path: &str,
        value: i128,
        range: RangeInclusive<u64>,
        span: Span,
        default: u64,
        show: impl Fn(u64) -> D,
    ) -> u64 {
        match u64::try_from(value) {
            Ok(value) if range.contains(&value) => value,
            Ok(value) => {
                let (least, most) = (show(*range.start()), show(*range.end()));
                self.beyond(path, show(value), least, most, span);
                default
            }
            Err(_) => {
                let (least, most) = (show(*range.start()), show(*range.end()));
                self.beyond(path, value, least, most, span);
                default
            }
        }
    }

    pub(crate) fn beyond(
        &mut self,
        path: &str,
        value: impl Display,
        least: impl Display,
        most: impl Display,
        span: Span,
    ) {
        self.problem(
            span,
            format!("{path} cannot be {value}"),
            format!("it is at least {least} and at most {most}"),
        );
    }
}
