//! Sizes (`64 MiB`) and durations (`250ms`), read and written.

use std::time::Duration;

const SIZES: [(&str, u64); 7] = [
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];

const TIMES: [(&str, u64); 3] = [("ms", 1), ("s", 1_000), ("m", 60_000)];

pub(crate) const SIZE_HELP: &str =
    "a size is a whole number and a unit, such as \"64 MiB\": B, kB, KiB, MB, MiB, GB or GiB";
pub(crate) const TIME_HELP: &str =
    "a duration is a whole number and a unit, such as \"250ms\", \"5s\" or \"2m\"";

/// Bytes, from a number with a unit or without one, as the manifest writes sizes.
///
/// # Errors
/// What to write instead.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let digits: u64 = whole(number).ok_or(SIZE_HELP)?;
    let factor = if unit.is_empty() {
        1
    } else {
        factor(&SIZES, unit).map_err(|near| near.map_or(SIZE_HELP.to_owned(), did_you(number)))?
    };
    digits
        .checked_mul(factor)
        .ok_or_else(|| SIZE_HELP.to_owned())
}

/// A duration, from a number with a unit; else what to write instead.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let digits: u64 = whole(number).ok_or(TIME_HELP)?;
    if unit.is_empty() {
        return Err(format!("which unit? Write \"{number}s\" or \"{number}ms\""));
    }
    let factor =
        factor(&TIMES, unit).map_err(|near| near.map_or(TIME_HELP.to_owned(), did_you(number)))?;
    let millis = digits.checked_mul(factor).ok_or(TIME_HELP)?;
    Ok(Duration::from_millis(millis))
}

/// A size in the largest unit that gives a whole number.
pub(crate) fn show_size(bytes: u64) -> String {
    show(&SIZES, bytes, " ")
}

/// A duration in the largest unit that gives a whole number.
pub(crate) fn show_duration(duration: Duration) -> String {
    show(
        &TIMES,
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        "",
    )
}

fn show(units: &[(&str, u64)], value: u64, space: &str) -> String {
    units
        .iter()
        .rev()
        .find(|(_, factor)| value >= *factor && value.is_multiple_of(*factor))
        .map_or_else(
            || format!("{value}{space}{}", units[0].0),
            |(unit, factor)| format!("{}{space}{unit}", value / factor),
        )
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|char: char| !(char.is_ascii_digit() || char == '_'))
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn whole(number: &str) -> Option<u64> {
    number.replace('_', "").parse().ok()
}

/// The unit's factor, or the unit that was probably meant.
fn factor(units: &[(&'static str, u64)], unit: &str) -> Result<u64, Option<&'static str>> {
    if let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) {
        return Ok(*factor);
    }
    let lower = unit.to_ascii_lowercase();
    Err(match lower.as_str() {
        "k" => find(units, "KiB"),
        "g" => find(units, "GiB"),
        "m" => find(units, "MiB").or(find(units, "m")),
        "sec" | "secs" | "second" | "seconds" => find(units, "s"),
        "min" | "mins" | "minute" | "minutes" => find(units, "m"),
        "byte" | "bytes" => find(units, "B"),
        _ => units
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|(name, _)| *name),
    })
}

fn find(units: &[(&'static str, u64)], name: &str) -> Option<&'static str> {
    units
        .iter()
        .find(|(unit, _)| *unit == name)
        .map(|(unit, _)| *unit)
}

fn did_you(number: &str) -> impl Fn(&'static str) -> String {
    let number = number.to_owned();
    move |unit| {
        let space = if SIZES.iter().any(|(name, _)| *name == unit) {
            " "
        } else {
            ""
        };
        format!("did you mean \"{number}{space}{unit}\"?")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("64 MiB"), Ok(64 << 20));
        assert_eq!(size("500kB"), Ok(500_000));
        assert_eq!(size("1048576"), Ok(1 << 20));
        assert_eq!(size("1_000 B"), Ok(1_000));
        assert_eq!(
            size("64 mib"),
            Err("did you mean \"64 MiB\"?".to_owned()),
            "units are exact, so that mB is never guessed"
        );
        assert_eq!(size("64 M"), Err("did you mean \"64 MiB\"?".to_owned()));
        for bad in [
            "",
            "MiB",
            "-1 MiB",
            "1.5 MiB",
            "99999999999 GiB",
            "1 parsec",
        ] {
            assert_eq!(size(bad), Err(SIZE_HELP.to_owned()), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5 s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("5 sec"), Err("did you mean \"5s\"?".to_owned()));
        assert_eq!(
            duration("5"),
            Err("which unit? Write \"5s\" or \"5ms\"".to_owned())
        );
        for bad in ["", "s", "1m30s", "1h", "99999999999999999999s"] {
            assert_eq!(duration(bad), Err(TIME_HELP.to_owned()), "{bad}");
        }
    }

    #[test]
    fn shown_in_the_unit_that_fits() {
        assert_eq!(show_size(64 << 20), "64 MiB");
        assert_eq!(show_size(999_000), "999 kB");
        assert_eq!(show_size(1_001), "1001 B");
        assert_eq!(show_size(0), "0 B");
        assert_eq!(show_duration(Duration::from_secs(600)), "10m");
        assert_eq!(show_duration(Duration::from_millis(1)), "1ms");
    }
}
