//! Asking before what cannot be taken back is done.

use std::io::{IsTerminal, Write};

use anyhow::Result;

use crate::failure::Failure;

/// What is done where nobody can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unasked {
    /// The thing itself: the command says it clearly enough.
    Done,
    /// Nothing: `--yes` has to say it.
    Refused,
}

/// Whether a person agrees, unless `yes` says that already.
///
/// # Errors
/// Nobody can be asked, and it is not done unasked.
pub(crate) fn agreed(yes: bool, question: &str, unasked: Unasked) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        return match unasked {
            Unasked::Done => Ok(true),
            Unasked::Refused => Err(Failure::new("nobody can be asked: this is no terminal")
                .hint("pass --yes to do it without a question")
                .into()),
        };
    }
    anstream::eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}
