//! Sizes (`64 MiB`), durations (`250ms`) and shares (`50%`), read and written.

use std::fmt;
use std::str::FromStr;
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

pub(crate) const PERCENT_HELP: &str = "a share is a whole number of percent, such as \"50%\"";

/// A share in whole percent, 0 to 100, as the manifest writes it: `50%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

impl Percent {
    /// Percent, none if there are more than 100.
    #[must_use]
    pub const fn new(percent: u8) -> Option<Self> {
        if percent <= 100 {
            Some(Self(percent))
        } else {
            None
        }
    }

    /// 50 of 100 are half.
    pub(crate) const HALF: Self = Self(50);

    /// How many of a hundred.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The same as a part of one: 0.5 for `50%`.
    #[must_use]
    pub fn share(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// The error says what to write instead.
impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let digits: u64 = whole(number).ok_or(PERCENT_HELP)?;
        match (unit, u8::try_from(digits).ok().and_then(Self::new)) {
            ("%", Some(percent)) => Ok(percent),
            ("", Some(percent)) => Err(format!("did you mean \"{percent}\"?")),
            ("%", None) => Err("a share is at most \"100%\"".to_owned()),
            _ => Err(PERCENT_HELP.to_owned()),
        }
    }
}

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
    if duration.is_zero() {
        return "0s".to_owned();
    }
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
    fn shares() {
        let percent = |text: &str| text.parse::<Percent>();
        assert_eq!(percent("50%"), Ok(Percent(50)));
        assert_eq!(percent(" 5 %"), Ok(Percent(5)));
        assert_eq!(percent("0%").map(Percent::share), Ok(0.0));
        assert_eq!(percent("100%").map(Percent::share), Ok(1.0));
        assert_eq!(Percent(7).to_string(), "7%");
        assert_eq!(percent("50"), Err("did you mean \"50%\"?".to_owned()));
        assert_eq!(
            percent("101%"),
            Err("a share is at most \"100%\"".to_owned())
        );
        for bad in ["", "%", "0.5", "2.5%", "-1%", "5 percent", "300"] {
            assert_eq!(percent(bad), Err(PERCENT_HELP.to_owned()), "{bad}");
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
        assert_eq!(show_duration(Duration::ZERO), "0s");
    }
}
