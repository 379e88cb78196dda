//! Licences, as SPDX writes them.

use std::collections::{BTreeMap, BTreeSet};

use spdx::Expression;

/// What stands for a licence that a package does not name.
pub(crate) const NONE: &str = "not said";

/// A licence in the form in which it can be compared: `Apache-2.0/MIT` and
/// `MIT OR Apache-2.0` are one.
pub(crate) fn canonical(licence: &str) -> String {
    let strict = Expression::canonicalize(licence).ok().flatten();
    let licence = strict.unwrap_or_else(|| licence.to_owned());
    if licence.contains(['(', ')']) || licence.contains(" AND ") {
        return licence;
    }
    let choices: BTreeSet<&str> = licence.split(" OR ").map(str::trim).collect();
    choices.into_iter().collect::<Vec<_>>().join(" OR ")
}

/// Whether SPDX knows a licence, or all licences of an expression.
pub(crate) fn is_known(licence: &str) -> bool {
    Expression::parse(licence).is_ok()
}

/// The licence of a whole, from those of its parts; none unless each part has one
/// that SPDX knows.
pub(crate) fn whole<'l>(parts: impl Iterator<Item = Option<&'l str>>) -> Option<String> {
    let different: BTreeSet<&str> = parts.collect::<Option<_>>()?;
    let terms: Vec<String> = different
        .iter()
        .map(|licence| {
            if different.len() > 1 && licence.contains(" OR ") {
                format!("({licence})")
            } else {
                (*licence).to_owned()
            }
        })
        .collect();
    Some(terms.join(" AND ")).filter(|whole| is_known(whole))
}

/// How many parts have each licence, the most frequent first.
pub(crate) fn summed<'l>(parts: impl Iterator<Item = Option<&'l str>>) -> Vec<(&'l str, u64)> {
    let mut counts = BTreeMap::new();
    for licence in parts {
        *counts.entry(licence.unwrap_or(NONE)).or_insert(0) += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_licence_is_written_in_one_way() {
        for written in [
            "MIT OR Apache-2.0",
            "Apache-2.0/MIT",
            "Apache-2.0 OR MIT OR MIT",
        ] {
            assert_eq!(canonical(written), "Apache-2.0 OR MIT");
        }
        let grouped = "(MIT OR Apache-2.0) AND Unicode-3.0";
        assert_eq!(canonical(grouped), grouped);
        assert_eq!(canonical("ask us"), "ask us");
    }

    #[test]
    fn the_whole_is_under_the_licences_of_all_its_parts() {
        let parts = ["MIT", "Apache-2.0 OR MIT", "MIT"].map(Some);
        assert_eq!(
            whole(parts.into_iter()).as_deref(),
            Some("(Apache-2.0 OR MIT) AND MIT")
        );
        assert_eq!(whole([Some("MIT")].into_iter()).as_deref(), Some("MIT"));
        assert_eq!(whole([Some("MIT"), None].into_iter()), None);
        assert_eq!(whole([Some("MIT"), Some("ask us")].into_iter()), None);
    }

    #[test]
    fn licences_are_summed_the_most_frequent_first() {
        let parts = [Some("Zlib"), Some("MIT"), None, Some("MIT")];
        assert_eq!(
            summed(parts.into_iter()),
            [("MIT", 2), ("Zlib", 1), (NONE, 1)]
        );
    }
}
