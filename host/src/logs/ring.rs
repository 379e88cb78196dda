//! The latest lines of one service, bounded in bytes. It decides and does no I/O.

use std::collections::VecDeque;
use std::sync::Arc;

use tidemill_cli::api::Level;

/// A line as JSON, without its end.
pub(crate) type Text = Arc<str>;

/// What a line takes beside its text.
const OVERHEAD: usize = 64;

/// Lines with consecutive numbers.
#[derive(Default)]
pub(super) struct Ring {
    lines: VecDeque<(Level, Text)>,
    bytes: usize,
    /// The number of the first line that is left.
    first: u64,
}

/// What a reader gets.
#[derive(Default)]
pub(crate) struct Part {
    pub(crate) lines: Vec<Text>,
    /// How many lines were gone before they were read.
    pub(crate) lost: u64,
    /// Where to go on.
    pub(crate) next: u64,
}

impl Ring {
    pub(super) fn push(&mut self, level: Level, text: Text) {
        self.bytes += text.len() + OVERHEAD;
        self.lines.push_back((level, text));
    }

    /// Drops the oldest lines until so many bytes are left.
    pub(super) fn trim(&mut self, most: usize) {
        while self.bytes > most
            && let Some((_, text)) = self.lines.pop_front()
        {
            self.bytes -= text.len() + OVERHEAD;
            self.first += 1;
        }
    }

    /// The number of the next line.
    pub(super) fn end(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The latest lines of a level or a worse one.
    pub(super) fn tail(&self, most: usize, level: Level) -> Part {
        let wanted = self.lines.iter().rev().filter(|(of, _)| *of >= level);
        let mut lines: Vec<Text> = wanted.take(most).map(|(_, text)| text.clone()).collect();
        lines.reverse();
        Part {
            lines,
            lost: 0,
            next: self.end(),
        }
    }

    /// All lines from a number on that are of a level or a worse one.
    pub(super) fn since(&self, number: u64, level: Level) -> Part {
        let lost = self.first.saturating_sub(number);
        let seen = usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let new = self.lines.iter().skip(seen);
        let wanted = new.filter(|(of, _)| *of >= level);
        Part {
            lines: wanted.map(|(_, text)| text.clone()).collect(),
            lost,
            next: self.end(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(lines: u64, most: usize) -> Ring {
        let mut ring = Ring::default();
        for line in 0..lines {
            let level = if line % 2 == 0 {
                Level::Info
            } else {
                Level::Warn
            };
            ring.push(level, line.to_string().into());
            ring.trim(most);
        }
        ring
    }

    fn texts(part: &Part) -> Vec<&str> {
        part.lines.iter().map(|line| &**line).collect()
    }

    #[test]
    fn a_tail_is_the_latest_lines_that_are_bad_enough() {
        let ring = ring(10, usize::MAX);
        assert_eq!(texts(&ring.tail(3, Level::Debug)), ["7", "8", "9"]);
        assert_eq!(texts(&ring.tail(2, Level::Warn)), ["7", "9"]);
        assert_eq!(ring.tail(3, Level::Error).lines.len(), 0);
    }

    #[test]
    fn who_reads_too_slowly_is_told_how_much_is_lost() {
        // Room for four lines of one digit.
        let ring = ring(10, 4 * (OVERHEAD + 1));
        let part = ring.since(2, Level::Debug);
        assert_eq!(texts(&part), ["6", "7", "8", "9"]);
        assert_eq!((part.lost, part.next), (4, 10));
        let part = ring.since(part.next, Level::Debug);
        assert_eq!((part.lines.len(), part.lost, part.next), (0, 0, 10));
    }
}
