//! Secrets come from files: what is in an argument, everyone on the machine can
//! read in the list of processes. And no message repeats a value.

use std::collections::BTreeMap;
use std::path::Path;

use super::config::ConfigError;

/// The token in a file: all of it, but for white space around it.
pub(super) fn token(path: &Path) -> Result<String, ConfigError> {
    Ok(read(path)?.trim().to_owned())
}

/// librdkafka's properties in a file: `NAME=VALUE` lines, as its other clients
/// have them. Empty lines and those that begin with `#` are comments.
pub(super) fn properties(path: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    let text = read(path)?;
    let mut properties = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = property(line) else {
            return Err(ConfigError::Parse(
                path.to_owned(),
                format!("line {}: a property is given as NAME=VALUE", number + 1),
            ));
        };
        properties.insert(name, value);
    }
    Ok(properties)
}

/// A property and its value. None if it is none: then it may be a password.
pub(super) fn property(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(path);
    text.map_err(|cause| ConfigError::Read(path.to_owned(), cause))
}

/// What a parser says of a value of the wrong type, without the value: `invalid
/// type: string "…", expected i32`.
pub(super) fn without_value(message: &str) -> String {
    let Some((said, expected)) = message.rsplit_once(", expected ") else {
        return message.to_owned();
    };
    if !said.starts_with("invalid ") && !said.starts_with("unknown variant ") {
        return message.to_owned();
    }
    let kind = said.split(['"', '`']).next().unwrap_or_default();
    format!("{}, expected {expected}", kind.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> std::path::PathBuf {
        let path = crate::testing::folder(name).join("file");
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_token_is_what_is_in_its_file() {
        assert_eq!(token(&file("token", " s3cret\n")).unwrap(), "s3cret");
        assert!(token(Path::new("/nowhere/token")).is_err());
    }

    #[test]
    fn properties_are_lines() {
        let text = "# of the shop\n\nsasl.username = shop\r\nsasl.password=a=b#c \n";
        let read = properties(&file("properties", text)).unwrap();
        let expected = [("sasl.password", "a=b#c"), ("sasl.username", "shop")];
        assert!(
            read.iter().map(|(n, v)| (&**n, &**v)).eq(expected),
            "{read:?}"
        );
    }

    #[test]
    fn a_line_that_is_no_property_is_named_and_not_shown() {
        let error = properties(&file("no-property", "a=b\nhunter2\n")).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("line 2"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_value_is_taken_out_of_a_message() {
        for (said, kept) in [
            (
                r#"invalid type: string "a, expected b", expected i32"#,
                "invalid type: string, expected i32",
            ),
            (
                "invalid type: integer `42`, expected a string",
                "invalid type: integer, expected a string",
            ),
            (
                "invalid type: map, expected a string",
                "invalid type: map, expected a string",
            ),
            (
                "unknown field `a`, expected one of `b`",
                "unknown field `a`, expected one of `b`",
            ),
            (
                "unknown variant `a`, expected `b` or `c`",
                "unknown variant, expected `b` or `c`",
            ),
            ("missing comma", "missing comma"),
        ] {
            assert_eq!(without_value(said), kept);
        }
    }
}
