//! `[[subscribe]]`: topics that a service consumes, and what becomes of events
//! that fail.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::parse::Reader;
use crate::{OnExhausted, OutOfRange, Retried, Retry, Start, Subscription, rules};

const PAUSES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);

/// The failures that `on` may name.
const RETRIED: [Retried; 5] = [
    Retried::Retry,
    Retried::Trap,
    Retried::Memory,
    Retried::Timeout,
    Retried::Refused,
];

impl<'t> Reader<'t> {
    pub(crate) fn subscribe(&mut self, root: &DeTable<'t>) -> Vec<Subscription> {
        let Some(value) = root.get("subscribe") else {
            return Vec::new();
        };
        let help = "write a table for each topic: [[subscribe]], below it topic = \"…\"";
        let DeValue::Array(items) = value.get_ref() else {
            if let DeValue::Table(_) = value.get_ref() {
                let message = "[subscribe] is one table, not a list of them".to_owned();
                self.problem(value.span(), message, "write [[subscribe]]".to_owned());
            } else {
                self.wrong_type("subscribe", "a list of tables", value, help);
            }
            return Vec::new();
        };
        if items.is_empty() {
            let message = "subscribe is empty".to_owned();
            self.problem(value.span(), message, help.to_owned());
        }
        let mut subscriptions: Vec<Subscription> = Vec::new();
        for item in items {
            let DeValue::Table(table) = item.get_ref() else {
                self.wrong_type("subscribe", "a list of tables", item, help);
                continue;
            };
            let meant = self.check_keys(table, "[[subscribe]]");
            if !table.contains_key("topic") && !meant.contains(&"topic") {
                let message = "[[subscribe]] without a topic".to_owned();
                self.problem(item.span(), message, "add topic = \"…\"".to_owned());
            }
            let start = self.start(table);
            let out_of_range = self.out_of_range(table);
            let retry = self
                .table(table, "retry")
                .map(|(retry, _)| self.retry(retry));
            let Some((topic, span)) = self.string_at(table, "topic", "subscribe.topic") else {
                continue;
            };
            if let Err(help) = rules::check_topic(&topic) {
                self.problem(span, format!("{topic:?} cannot be a topic"), help);
            } else if is_own_dead_letters(root, &topic) {
                let message = format!("{topic:?} holds this service's own dead letters");
                let help = "an event that fails would come back for ever: consume them in another \
                            service, or send them back with `tidemill dead-letters NAME redrive`";
                self.problem(span, message, help.to_owned());
            } else if subscriptions.iter().any(|known| known.topic == topic) {
                self.twice(span, "topic", &topic);
            } else {
                subscriptions.push(Subscription {
                    topic,
                    start,
                    out_of_range,
                    retry: retry.unwrap_or_default(),
                });
            }
        }
        subscriptions
    }

    fn start(&mut self, table: &DeTable<'_>) -> Start {
        let all = [Start::Earliest, Start::Latest].map(|start| (start.word(), start));
        self.choice(table, "start", "subscribe.start", all[0], &all[1..])
    }

    fn out_of_range(&mut self, table: &DeTable<'_>) -> OutOfRange {
        let all = [OutOfRange::Earliest, OutOfRange::Latest, OutOfRange::Stop];
        let all = all.map(|place| (place.word(), place));
        let path = "subscribe.out-of-range";
        self.choice(table, "out-of-range", path, all[0], &all[1..])
    }

    fn retry(&mut self, table: &DeTable<'_>) -> Retry {
        self.check_keys(table, "[subscribe.retry]");
        let default = Retry::default();
        let path = |key| format!("subscribe.retry.{key}");
        let mut pause = |key, default| self.duration(table, key, &path(key), PAUSES, default);
        let backoff = pause("backoff", default.backoff);
        // A first pause that is longer than the default's longest is meant so.
        let max_backoff = pause("max-backoff", default.max_backoff.max(backoff));
        let attempts = path("attempts");
        let attempts = self.count(
            table,
            "attempts",
            &attempts,
            1..=1_000_000,
            default.attempts,
        );
        let jitter = self.count(table, "jitter", &path("jitter"), 0..=100, default.jitter);
        let ends = [OnExhausted::DeadLetter, OnExhausted::Stop].map(|end| (end.word(), end));
        let on_exhausted = path("on-exhausted");
        let on_exhausted = self.choice(table, "on-exhausted", &on_exhausted, ends[0], &ends[1..]);
        if backoff > max_backoff
            && let Some(span) = table.get("max-backoff").map(Spanned::span)
        {
            self.problem(
                span,
                "subscribe.retry.max-backoff is less than the first pause".to_owned(),
                "raise it, or lower backoff".to_owned(),
            );
        }
        Retry {
            attempts,
            backoff,
            max_backoff,
            jitter,
            on: self.retried(table).unwrap_or(default.on),
            on_exhausted,
        }
    }

    /// Which failures are tried again; none if the manifest does not say.
    fn retried(&mut self, table: &DeTable<'_>) -> Option<Vec<Retried>> {
        let items = self.list(table, "on", "subscribe.retry.on", "failures")?;
        let mut retried = Vec::new();
        for (text, span) in items {
            match RETRIED.iter().find(|cause| cause.word() == text) {
                Some(cause) if retried.contains(cause) => self.twice(span, "failure", &text),
                Some(cause) => retried.push(*cause),
                None => {
                    let words: Vec<&str> = RETRIED.iter().map(|cause| cause.word()).collect();
                    let help = match text.as_str() {
                        "reject" => "an event that its handler rejects is never tried again",
                        _ => &format!("it is one of {}", words.join(", ")),
                    };
                    let message = format!("{text:?} is not a failure that can be tried again");
                    self.problem(span, message, help.to_owned());
                }
            }
        }
        Some(retried)
    }
}

fn is_own_dead_letters(root: &DeTable<'_>, topic: &str) -> bool {
    let name = root.get("name").map(Spanned::get_ref);
    matches!((name, topic.strip_suffix(rules::DEAD_LETTER)),
        (Some(DeValue::String(name)), Some(service)) if name == service)
}
