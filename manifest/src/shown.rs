//! Parts of a manifest as it would write them, by key: for who shows two of them
//! side by side.

use crate::units::{show_duration, show_size};
use crate::{Delivery, Limits, OnExhausted, OutOfRange, Retried, Retry, Start, Trial};

impl Limits {
    /// Each limit, in the order of docs/manifest.md.
    #[must_use]
    pub fn shown(&self) -> [(&'static str, String); 13] {
        [
            ("memory", show_size(self.memory)),
            ("memory-total", show_size(self.memory_total)),
            ("time", show_duration(self.time)),
            ("concurrency", self.concurrency.to_string()),
            ("queue", self.queue.to_string()),
            ("queue-time", show_duration(self.queue_time)),
            ("instances", self.instances.to_string()),
            ("reuse", self.reuse.to_string()),
            ("request", show_size(self.request)),
            ("response", show_size(self.response)),
            ("event", show_size(self.event)),
            ("effects", self.effects.to_string()),
            ("effects-size", show_size(self.effects_size)),
        ]
    }
}

impl Retry {
    /// Each key of `[subscribe.retry]`.
    #[must_use]
    pub fn shown(&self) -> [(&'static str, String); 6] {
        let on: Vec<&str> = self.on.iter().map(|failure| failure.word()).collect();
        [
            ("attempts", self.attempts.to_string()),
            ("backoff", show_duration(self.backoff)),
            ("max-backoff", show_duration(self.max_backoff)),
            ("jitter", self.jitter.to_string()),
            ("on", format!("[{}]", on.join(", "))),
            ("on-exhausted", self.on_exhausted.word().to_owned()),
        ]
    }
}

impl Trial {
    /// Each key of `[trial]`.
    #[must_use]
    pub fn shown(&self) -> [(&'static str, String); 3] {
        [
            ("time", show_duration(self.time)),
            ("failures", self.failures.to_string()),
            ("calls", self.calls.to_string()),
        ]
    }
}

impl Delivery {
    /// As a manifest writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ExactlyOnce => "exactly-once",
            Self::AtLeastOnce => "at-least-once",
        }
    }
}

impl Start {
    /// As a manifest writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Earliest => "earliest",
            Self::Latest => "latest",
        }
    }
}

impl OutOfRange {
    /// As a manifest writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Earliest => "earliest",
            Self::Latest => "latest",
            Self::Stop => "stop",
        }
    }
}

impl OnExhausted {
    /// As a manifest writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::DeadLetter => "dead-letter",
            Self::Stop => "stop",
        }
    }
}

impl Retried {
    /// As a manifest writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Trap => "trap",
            Self::Memory => "memory",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Manifest;

    /// What is shown is read as what it was.
    #[test]
    fn it_is_shown_as_a_manifest_writes_it() {
        let head = "name = \"a\"\n[http]\nroutes = [\"/a\"]\n";
        let read = |text: &str| Manifest::parse(text, "service.toml").expect("it is valid");
        let limits = "memory = \"96 MiB\"\ntime = \"250ms\"\nevent = \"1500 B\"\n\
                      memory-total = 1073741825\nconcurrency = 7\n";
        let first = read(&format!(
            "{head}[limits]\n{limits}[trial]\nfailures = \"7%\"\n"
        ));
        let mut text = head.to_owned();
        for (table, fields) in [
            ("limits", first.limits.shown().to_vec()),
            ("trial", first.trial.shown().to_vec()),
        ] {
            text.push_str(&format!("[{table}]\n"));
            for (key, value) in fields {
                match value.parse::<u64>() {
                    Ok(number) => text.push_str(&format!("{key} = {number}\n")),
                    Err(_) => text.push_str(&format!("{key} = {value:?}\n")),
                }
            }
        }
        let again = read(&text);
        assert_eq!(again, first);
        assert_eq!(
            first.limits.shown().map(|(key, _)| key),
            crate::limits::KEYS
        );
    }
}
