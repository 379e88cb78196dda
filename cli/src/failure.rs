//! What went wrong and what to do about it, as the command line shows it.

use std::fmt;

use crate::show::{BOLD, ERROR, HINT};

/// An error with room for what to do. In an `anyhow` chain it is shown in full.
#[derive(Debug)]
pub(crate) struct Failure {
    title: String,
    detail: String,
    hints: Vec<String>,
}

impl Failure {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            detail: String::new(),
            hints: Vec::new(),
        }
    }

    /// More about it, of any length.
    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// What to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)
    }
}

/// An error for the terminal, styled, without a line end.
pub(crate) fn render(error: &anyhow::Error) -> String {
    let mut causes = error.chain();
    let mut text = format!("{ERROR}error:{ERROR:#} {BOLD}{error}{BOLD:#}");
    let first = causes.next();
    for cause in causes {
        text.push_str(&format!("\n  because {cause}"));
    }
    let failure = first
        .into_iter()
        .chain(error.chain().skip(1))
        .find_map(|cause| cause.downcast_ref::<Failure>());
    if let Some(failure) = failure {
        if !failure.detail.is_empty() {
            for line in failure.detail.lines() {
                text.push_str(format!("\n  {}", crate::show::clean(line)).trim_end_matches(' '));
            }
        }
        for hint in &failure.hints {
            text.push_str(&format!("\n{HINT}hint:{HINT:#} {hint}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    fn plain(error: &anyhow::Error) -> String {
        anstream::adapter::strip_str(&render(error)).to_string()
    }

    #[test]
    fn a_failure_shows_detail_and_hints() {
        let failure = Failure::new("no such thing")
            .detail("one\ntwo")
            .hint("look elsewhere");
        assert_eq!(
            plain(&failure.into()),
            "error: no such thing\n  one\n  two\nhint: look elsewhere"
        );
    }

    #[test]
    fn a_chain_shows_its_causes() {
        let error = Err::<(), _>(Failure::new("denied").hint("ask"))
            .context("cannot read a.toml")
            .expect_err("an error");
        assert_eq!(
            plain(&error),
            "error: cannot read a.toml\n  because denied\nhint: ask"
        );
    }

    #[test]
    fn what_a_host_says_cannot_steer_the_terminal() {
        let failure = Failure::new("x").detail("\u{1b}[31mred");
        assert_eq!(plain(&failure.into()), "error: x\n  \u{fffd}[31mred");
    }
}
