//! What a deploy changes and warns of, for a terminal.

use crate::api::{Change, Warning};
use crate::show::{self, BAD, DIM, FINE, HINT, WARNING};

/// Characters of a name, and of a value, that are shown.
const NAME: usize = 60;
const VALUE: usize = 60;

/// A line a change, in columns: `+` has come, `-` has gone, `~` is another now.
/// Nothing if there are none.
pub(crate) fn show_changes(changes: &[Change]) -> String {
    let rows: Vec<[String; 3]> = changes.iter().map(cells).collect();
    let width = |column: usize| {
        let widths = rows.iter().map(|row| show::visible(&row[column]));
        widths.max().unwrap_or_default()
    };
    let widths = [width(0), width(1), width(2)];
    let mut text = String::new();
    for row in &rows {
        let mut padding = 2;
        for (cell, width) in row.iter().zip(widths) {
            let seen = show::visible(cell);
            if seen > 0 {
                text.push_str(&" ".repeat(padding));
                text.push_str(cell);
                padding = 0;
            }
            padding += width - seen + 2;
        }
        text.push('\n');
    }
    text
}

/// A paragraph a warning. Nothing if there are none.
pub(crate) fn show_warnings<'a>(warnings: impl IntoIterator<Item = &'a Warning>) -> String {
    let lines = warnings.into_iter().map(|warning| {
        let message = show::clean(&warning.message);
        format!("{WARNING}warning:{WARNING:#} {message}\n")
    });
    lines.collect()
}

/// What it is about, which one, and what it was and is.
fn cells(change: &Change) -> [String; 3] {
    let value = |text: &String| show::line(text, VALUE);
    let (mark, style, value) = match (&change.before, &change.after) {
        (None, Some(after)) => ('+', FINE, value(after)),
        (Some(before), None) => ('-', BAD, value(before)),
        // What is not shown has changed all the same.
        (Some(before), Some(after)) if before == after => ('~', HINT, "changed".to_owned()),
        (before, after) => {
            let [before, after] = [before, after].map(|side| side.as_ref().map(value));
            let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
            ('~', HINT, format!("{before} {DIM}→{DIM:#} {after}"))
        }
    };
    let style = if change.breaking { WARNING } else { style };
    let shown = |text: &str| match text {
        "" => String::new(),
        text => show::styled(style, text),
    };
    let note = change.breaking.then(|| shown("breaking"));
    let values = [Some(value), note].into_iter().flatten();
    let values: Vec<String> = values.filter(|text| !text.is_empty()).collect();
    [
        shown(&format!("{mark} {}", show::line(&change.what, NAME))),
        shown(&show::line(&change.name, NAME)),
        values.join("  "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(what: &str, name: &str, before: Option<&str>, after: Option<&str>) -> Change {
        Change {
            what: what.to_owned(),
            name: name.to_owned(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
            breaking: false,
        }
    }

    #[test]
    fn changes_stand_in_columns() {
        let changes = [
            Change {
                breaking: true,
                ..change("route", "/old", Some(""), None)
            },
            change("route", "/new", None, Some("")),
            Change {
                breaking: true,
                ..change("operation", "GET /old/{id}", Some("One of them"), None)
            },
            change("operation", "POST /new", None, Some("Make one")),
            change(
                "subscription",
                "users",
                None,
                Some("from the next event on"),
            ),
            change("group", "", Some("order"), Some("orders.v2")),
            change("state", "", None, Some("")),
            change("setting", "api-key", Some("…"), Some("…")),
            change("limit", "memory", Some("64 MiB"), Some("96 MiB")),
            change("size", "", Some("417 kB"), Some("420 kB")),
        ];
        assert_eq!(
            show::plain(&show_changes(&changes)),
            "  - route         /old           breaking
  + route         /new
  - operation     GET /old/{id}  One of them  breaking
  + operation     POST /new      Make one
  + subscription  users          from the next event on
  ~ group                        order → orders.v2
  + state
  ~ setting       api-key        changed
  ~ limit         memory         64 MiB → 96 MiB
  ~ size                         417 kB → 420 kB
"
        );
        assert_eq!(show_changes(&[]), "");
    }

    #[test]
    fn what_breaks_has_the_colour_of_warnings() {
        let breaking = Change {
            breaking: true,
            ..change("route", "/old", Some(""), None)
        };
        let shown = show_changes(&[breaking, change("route", "/new", None, Some(""))]);
        let coloured: Vec<bool> = shown
            .lines()
            .map(|line| line.contains(&WARNING.to_string()))
            .collect();
        assert_eq!(coloured, [true, false]);
    }

    #[test]
    fn nothing_of_a_service_steers_the_terminal() {
        let hostile = "a\u{1b}[31m\nb";
        let shown = show_changes(&[change("setting", hostile, None, Some(hostile))]);
        assert_eq!(
            show::plain(&shown),
            "  + setting  a\u{fffd}[31m b  a\u{fffd}[31m b\n"
        );
    }

    #[test]
    fn warnings_are_marked() {
        let warning = |message: &str| Warning {
            kind: "unread".to_owned(),
            message: message.to_owned(),
        };
        assert_eq!(
            show::plain(&show_warnings(&[
                warning("Nobody reads it."),
                warning("Nor that.")
            ])),
            "warning: Nobody reads it.\nwarning: Nor that.\n"
        );
        assert_eq!(show_warnings(&[]), "");
    }
}
