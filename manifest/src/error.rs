//! What is wrong with a manifest, shown with the line it is in.

use std::fmt;
use std::ops::Range;

/// Problems that are shown, out of those that were noted.
const SHOWN: usize = 20;

/// Characters of a source line that are shown.
const WIDTH: usize = 100;

/// A manifest that can't be used, with everything that is wrong with it.
///
/// As text it is ready to be shown: a paragraph a problem, each with place,
/// source line, caret and help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    file: String,
    problems: Vec<Problem>,
}

/// One mistake in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
    source: String,
    caret: Range<usize>,
    offset: usize,
}

impl Problem {
    /// A mistake at a span of `text`.
    pub(crate) fn new(text: &str, span: Range<usize>, message: String, help: String) -> Self {
        let start = floor_boundary(text, span.start);
        let end = floor_boundary(text, span.end.max(start));
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..]
            .find('\n')
            .map_or(text.len(), |length| start + length);
        let before = text[line_start..start].chars().count();
        let width = text[start..end.min(line_end).max(start)].chars().count();
        let line = text[line_start..line_end].trim_end_matches('\r');
        let (source, caret) = window(line, before, width.max(1));
        Self {
            line: text[..start].matches('\n').count() + 1,
            column: before + 1,
            message,
            help,
            source,
            caret,
            offset: start,
        }
    }
}

impl ManifestError {
    /// Collects problems, in any order, of which there must be at least one.
    pub(crate) fn new(file: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.offset);
        Self {
            file: file.to_owned(),
            problems,
        }
    }

    /// What the manifest was called when it was parsed.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Everything that is wrong, in the order of the file.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl std::error::Error for ManifestError {}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().take(SHOWN).enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            let Problem {
                line,
                column,
                message,
                help,
                source,
                caret,
                ..
            } = problem;
            let number = line.to_string();
            let gutter = " ".repeat(number.len());
            writeln!(f, "{}:{line}:{column}: {message}", self.file)?;
            writeln!(f, " {number} | {source}")?;
            writeln!(
                f,
                " {gutter} | {}{}",
                " ".repeat(caret.start),
                "^".repeat(caret.len())
            )?;
            write!(f, " {gutter} = {help}")?;
        }
        if self.problems.len() > SHOWN {
            f.write_str("\n\nand more")?;
        }
        Ok(())
    }
}

/// The part of a line around a span of it, and where the span is in that part.
/// Tabs become spaces and control characters a mark, so that the caret fits and
/// a terminal is left alone.
fn window(line: &str, start: usize, width: usize) -> (String, Range<usize>) {
    let total = line.chars().count();
    let from = if total <= WIDTH || start < WIDTH / 2 {
        0
    } else {
        start - WIDTH / 4
    };
    let to = total.min(from + WIDTH);
    let mut part = String::new();
    if from > 0 {
        part.push('…');
    }
    let shift = part.chars().count();
    part.extend(
        line.chars()
            .skip(from)
            .take(to - from)
            .map(|char| match char {
                '\t' => ' ',
                char if char.is_control() => char::REPLACEMENT_CHARACTER,
                char => char,
            }),
    );
    if to < total {
        part.push('…');
    }
    let caret = start - from + shift;
    let end = (caret + width).min(to.max(start + 1) - from + shift);
    (part.trim_end().to_owned(), caret..end.max(caret + 1))
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
