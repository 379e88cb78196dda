//! The value of an event as a person reads it: JSON on many lines, text, or bytes
//! beside what they are as text. Nothing of it can steer a terminal.

use anstyle::Style;
use serde::de::IgnoredAny;

use crate::failure::Failure;
use crate::show::{self, DIM, FAIR, FINE, HINT};

/// How a value is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum View {
    /// JSON where it is JSON, text where it is UTF-8, hex else
    #[default]
    Auto,
    /// As it is, control characters escaped
    Text,
    /// On many lines, digits as they were
    Json,
    /// Its bytes
    Hex,
}

/// A value in a view, with a line end after each line.
///
/// # Errors
/// JSON is asked for, and it is none.
pub(crate) fn render(bytes: &[u8], view: View) -> Result<String, Failure> {
    let text = std::str::from_utf8(bytes).ok();
    let json = text.filter(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    Ok(match (view, json, text) {
        (View::Auto | View::Json, Some(json), _) => pretty(json),
        (View::Json, None, _) => {
            return Err(Failure::new("the value is not JSON")
                .hint("--as text or --as hex shows what it is"));
        }
        (View::Auto, None, Some(text)) => escaped(text),
        (View::Text, ..) => escaped(&String::from_utf8_lossy(bytes)),
        (View::Auto | View::Hex, ..) => hex(bytes),
    })
}

fn escaped(text: &str) -> String {
    text.lines()
        .map(|line| format!("{}\n", show::escaped(line)))
        .collect()
}

/// Offset, sixteen bytes, and the same as text, a line each.
fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(16).enumerate().map(|(number, chunk)| {
        let mut digits = String::new();
        for (index, byte) in chunk.iter().enumerate() {
            let gap = if index == 8 { "  " } else { " " };
            digits.push_str(&format!("{gap}{byte:02x}"));
        }
        let text: String = chunk
            .iter()
            .map(|byte| match byte {
                b' '..=b'~' => char::from(*byte),
                _ => '.',
            })
            .collect();
        let offset = show::styled(DIM, &format!("{:08x}", number * 16));
        format!("{offset} {digits:<49}  {DIM}|{DIM:#}{text}{DIM}|{DIM:#}\n")
    });
    lines.collect()
}

/// Valid JSON, a line for each member and item, in colours. Digits and escapes stay
/// as they were: it is not parsed into numbers and written again.
fn pretty(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = 0;
    let mut rest = json.trim_start();
    while let Some(char) = rest.chars().next() {
        let length = token(rest);
        let (word, behind) = rest.split_at(length);
        rest = behind.trim_start();
        match char {
            '{' | '[' if rest.starts_with(['}', ']']) => {
                out.push(char);
                out.push_str(&rest[..1]);
                rest = rest[1..].trim_start();
            }
            '{' | '[' => {
                depth += 1;
                out.push(char);
                new_line(&mut out, depth);
            }
            '}' | ']' => {
                depth = usize::saturating_sub(depth, 1);
                new_line(&mut out, depth);
                out.push(char);
            }
            ',' => {
                out.push(char);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => {
                let word = show::escaped(word);
                out.push_str(&show::styled(color(char, rest), &word));
            }
        }
    }
    out.push('\n');
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.push_str(&"  ".repeat(depth));
}

/// The length of the token that valid JSON begins with.
fn token(json: &str) -> usize {
    if json.starts_with('"') {
        let mut escape = false;
        let end = json.char_indices().skip(1).find(|(_, char)| {
            let closes = *char == '"' && !escape;
            escape = *char == '\\' && !escape;
            closes
        });
        return end.map_or(json.len(), |(index, _)| index + 1);
    }
    if json.starts_with(['{', '}', '[', ']', ',', ':']) {
        return 1;
    }
    let ends = |char: char| char.is_ascii_whitespace() || "{}[],:\"".contains(char);
    json.find(ends).unwrap_or(json.len()).max(1)
}

fn color(first: char, rest: &str) -> Style {
    match first {
        '"' if rest.starts_with(':') => HINT,
        '"' => FINE,
        _ => FAIR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: &[u8], view: View) -> String {
        show::plain(&render(bytes, view).expect("it can be shown"))
    }

    #[test]
    fn json_has_a_line_for_each_member() {
        let json = br#" {"id":1.00e5,"a \" :":[1,{}, [ ] ,"x,y"],"n":null} "#;
        assert_eq!(
            shown(json, View::Auto),
            "{\n  \"id\": 1.00e5,\n  \"a \\\" :\": [\n    1,\n    {},\n    [],\n    \"x,y\"\n  ],\n  \
             \"n\": null\n}\n"
        );
        for one in ["7", "\"a\"", "{}", "[]", "true"] {
            assert_eq!(shown(one.as_bytes(), View::Json), format!("{one}\n"));
        }
    }

    #[test]
    fn text_keeps_its_lines_and_nothing_else_that_steers() {
        let hostile = "\u{1b}]0;owned\u{7}\r\nb\t\u{9b}2J\u{202e}";
        let expected = "\\u001b]0;owned\\u0007\nb\\t\\u009b2J\\u202e\n";
        assert_eq!(shown(hostile.as_bytes(), View::Auto), expected);
        let json = "{\"a\":\"\u{9b}2J\"}";
        assert_eq!(
            shown(json.as_bytes(), View::Auto),
            "{\n  \"a\": \"\\u009b2J\"\n}\n"
        );
    }

    #[test]
    fn what_is_no_text_is_shown_as_bytes() {
        let bytes: Vec<u8> = (0xf0..=0xff).chain([b'A', 0x1b]).collect();
        assert_eq!(
            shown(&bytes, View::Auto),
            "00000000  f0 f1 f2 f3 f4 f5 f6 f7  f8 f9 fa fb fc fd fe ff  |................|\n\
             00000010  41 1b                                             |A.|\n"
        );
        assert_eq!(
            shown(b"A", View::Hex).lines().count(),
            1,
            "text as bytes, when asked for"
        );
        assert_eq!(shown(&[b'a', 0xff], View::Text), "a\u{fffd}\n");
        assert_eq!(shown(b"", View::Auto), "");
    }

    #[test]
    fn json_that_is_none_is_not_shown_as_json() {
        let failure = render(b"{", View::Json).expect_err("an error");
        assert_eq!(failure.to_string(), "the value is not JSON");
    }
}
