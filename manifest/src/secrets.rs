//! A manifest as it may be shown to others: settings whose names say that they
//! are secrets lose their values.

use toml::de::{DeTable, DeValue};

/// What the name of a secret has in it, without what separates its words.
const NAMES: [&str; 9] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "apikey",
    "accesskey",
    "privatekey",
];

/// The text with `"…"` for the value of each setting that looks like a secret.
/// Nothing else changes.
#[must_use]
pub fn without_secrets(text: &str) -> String {
    let Ok(root) = DeTable::parse(text) else {
        // Nobody knows where its values are.
        return String::new();
    };
    let settings = match root.get_ref().get("settings").map(|value| value.get_ref()) {
        Some(DeValue::Table(settings)) => settings,
        _ => return text.to_owned(),
    };
    let mut spans: Vec<_> = settings
        .iter()
        .filter(|(name, _)| is_secret(name.get_ref()))
        .map(|(_, value)| value.span())
        .collect();
    // From the end on, so that the other places stay what they are.
    spans.sort_by_key(|span| std::cmp::Reverse(span.start));
    let mut shown = text.to_owned();
    for span in spans {
        shown.replace_range(span, "\"…\"");
    }
    shown
}

/// Whether the name of a setting says that it is a secret.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    let name: String = letters.collect::<String>().to_ascii_lowercase();
    NAMES.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_loses_its_value_and_nothing_else_changes() {
        let text = "name = \"a\" # kept\n[settings]\nsmtp_password = '''x\ny'''\ncolour = \"red\"\n\
                    API-Key = \"z\" # mine\n";
        assert_eq!(
            without_secrets(text),
            "name = \"a\" # kept\n[settings]\nsmtp_password = \"…\"\ncolour = \"red\"\n\
             API-Key = \"…\" # mine\n"
        );
    }

    #[test]
    fn without_settings_it_is_as_it_was() {
        assert_eq!(without_secrets("name = \"token\"\n"), "name = \"token\"\n");
    }
}
