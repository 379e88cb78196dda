//! How things look on a terminal: styles, tables, sizes, times. Text in, text
//! out. Colours are dropped on the way out where they don't belong.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anstyle::{AnsiColor, Color, Style};
use jiff::Timestamp;

use crate::api::{Bytes, Status};

const fn color(color: AnsiColor) -> Style {
    Style::new().fg_color(Some(Color::Ansi(color)))
}

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const ERROR: Style = color(AnsiColor::Red).bold();
pub(crate) const HINT: Style = color(AnsiColor::Cyan).bold();
pub(crate) const WARNING: Style = color(AnsiColor::Yellow).bold();
pub(crate) const GOOD: Style = color(AnsiColor::Green).bold();
pub(crate) const FAIR: Style = color(AnsiColor::Yellow);
pub(crate) const BAD: Style = color(AnsiColor::Red);
pub(crate) const FINE: Style = color(AnsiColor::Green);

/// Prints to standard output. A reader that has seen enough (`| head`) is fine.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut output = anstream::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Prints to standard output, and says whether somebody reads on.
pub(crate) fn print_on(text: &str) -> anyhow::Result<bool> {
    let mut output = anstream::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

/// Writes over the line of progress on standard error; an empty one takes it away.
/// Nothing happens where that is no terminal.
pub(crate) fn over(line: &str) -> io::Result<()> {
    if !io::stderr().is_terminal() {
        return Ok(());
    }
    let mut error = anstream::stderr().lock();
    write!(error, "\r\x1b[K{line}")?;
    error.flush()
}

/// Text with a style around it.
pub(crate) fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Text from elsewhere, without what could steer a terminal.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|char| match char {
            '\n' | '\t' => char,
            char if char.is_control() => char::REPLACEMENT_CHARACTER,
            char => char,
        })
        .collect()
}

/// Text from elsewhere on one line of at most so many characters.
pub(crate) fn line(text: &str, width: usize) -> String {
    let text = clean(text).replace(['\n', '\t'], " ");
    if text.chars().count() <= width {
        return text;
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Text from elsewhere on one line, with what could steer a terminal written as
/// JSON escapes it: control characters, and those that turn the direction of
/// writing.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(char)));
            }
            char if char.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(char))),
            char => out.push(char),
        }
    }
    out
}

/// The part of a revision that people read.
pub(crate) fn short(revision: &str) -> String {
    clean(revision).chars().take(12).collect()
}

pub(crate) fn status(status: Status) -> String {
    let (style, word) = match status {
        Status::Running => (FINE, "running"),
        Status::Starting => (FAIR, "starting"),
        Status::Retrying => (FAIR, "retrying"),
        Status::Blocked => (BAD, "blocked"),
        Status::Paused => (FAIR, "paused"),
    };
    styled(style, word)
}

/// 1234567 as 1,234,567.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the unit that fits, to three digits.
#[must_use]
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => three(bytes as f64 / 1e3, "kB"),
        1_000_000..1_000_000_000 => three(bytes as f64 / 1e6, "MB"),
        _ => three(bytes as f64 / 1e9, "GB"),
    }
}

/// Microseconds in the unit that fits, to three digits.
pub(crate) fn duration(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => three(micros as f64 / 1e3, "ms"),
        _ => three(micros as f64 / 1e6, "s"),
    }
}

fn three(value: f64, unit: &str) -> String {
    let decimals = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

/// Milliseconds since the epoch as a UTC date and time.
pub(crate) fn time(millis: u64) -> String {
    i64::try_from(millis)
        .ok()
        .and_then(|millis| Timestamp::from_millisecond(millis).ok())
        .map_or_else(
            || format!("{millis} ms after 1970"),
            |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        )
}

/// How long ago a time is, in the largest unit that it fills.
pub(crate) fn age(millis: u64, now: SystemTime) -> String {
    let then = UNIX_EPOCH + Duration::from_millis(millis);
    // Clocks differ: what is of the future is of now.
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How many characters a line of the terminal has; none where standard output is
/// no terminal.
pub(crate) fn width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0))
}

/// `1 dead letter`, `2 dead letters`.
pub(crate) fn several(number: u64, one: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {one}{plural}", count(number))
}

/// Bytes on one line, marked where they are no text.
pub(crate) fn bytes(bytes: &Bytes, width: usize) -> String {
    match bytes {
        Bytes::Text(text) if text.is_empty() => styled(DIM, "(empty)"),
        Bytes::Text(text) => line(text, width),
        Bytes::Base64(text) => format!("{} {}", styled(DIM, "base64"), line(text, width)),
    }
}

/// How a column of a table is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table with a dim head, its columns two spaces apart. Cells may be styled.
pub(crate) fn table(head: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(column, (title, _))| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| visible(cell))
                .chain([visible(title)])
                .max()
                .unwrap_or_default()
        })
        .collect();
    let titles: Vec<String> = head.iter().map(|(title, _)| styled(DIM, title)).collect();
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(rows) {
        let mut pending = 0;
        for ((cell, (_, align)), width) in row.iter().zip(head).zip(&widths) {
            let padding = width - visible(cell);
            let (before, after) = match align {
                Align::Left => (0, padding),
                Align::Right => (padding, 0),
            };
            text.push_str(&" ".repeat(pending + before));
            text.push_str(cell);
            pending = after + 2;
        }
        text.push('\n');
    }
    text
}

/// Lines of a label and a value, the values below each other.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields
        .iter()
        .map(|(label, _)| visible(label))
        .max()
        .unwrap_or_default();
    let mut text = String::new();
    for (label, value) in fields {
        let padding = " ".repeat(width - visible(label));
        for (index, line) in value.lines().enumerate() {
            if index == 0 {
                text.push_str(&format!("  {DIM}{label}{DIM:#}{padding}  {line}\n"));
            } else {
                text.push_str(&format!("  {}  {line}\n", " ".repeat(width)));
            }
        }
    }
    text
}

pub(crate) fn visible(text: &str) -> usize {
    anstream::adapter::strip_str(text)
        .to_string()
        .chars()
        .count()
}

#[cfg(test)]
pub(crate) fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(size(417_000), "417 kB");
        assert_eq!(size(1_500_000), "1.50 MB");
        assert_eq!(size(12), "12 B");
        assert_eq!(duration(7), "7 µs");
        assert_eq!(duration(440_000), "440 ms");
        assert_eq!(duration(9_996), "10.0 ms");
        assert_eq!(duration(12_340_000), "12.3 s");
    }

    #[test]
    fn times_are_dates() {
        assert_eq!(time(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(time(1_795_501_800_000), "2026-11-24 06:30:00 UTC");
        assert_eq!(time(4_107_542_399_999), "2100-02-28 23:59:59 UTC");
        assert_eq!(time(4_107_542_400_000), "2100-03-01 00:00:00 UTC");
    }

    #[test]
    fn an_age_is_in_one_unit() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (ago, shown) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (7_200, "2 h"),
            (86_400 * 3, "3 d"),
        ] {
            assert_eq!(age((1_000_000 - ago) * 1_000, now), shown);
        }
        assert_eq!(age(1_000_001_000, now), "0 s");
    }

    #[test]
    fn tables_align_by_what_is_seen() {
        let rows = vec![
            vec!["order".to_owned(), status(Status::Running), "5".to_owned()],
            vec!["a".to_owned(), status(Status::Blocked), "1,234".to_owned()],
        ];
        let head = [
            ("name", Align::Left),
            ("status", Align::Left),
            ("lag", Align::Right),
        ];
        assert_eq!(
            plain(&table(&head, &rows)),
            "name   status     lag\n\
             order  running      5\n\
             a      blocked  1,234\n"
        );
    }

    #[test]
    fn what_could_steer_a_terminal_is_escaped() {
        assert_eq!(
            escaped("a\u{1b}[31m\r\n\u{9b}\u{202e}\u{7f}ä"),
            "a\\u001b[31m\\r\\n\\u009b\\u202e\\u007fä"
        );
    }

    #[test]
    fn long_lines_are_cut_and_controls_are_marked() {
        assert_eq!(line("abcdef", 4), "abc…");
        assert_eq!(line("a\nb\u{7}", 9), "a b\u{fffd}");
    }
}
