//! Reading manifests and the section that they are in: any bytes whatever are an
//! error or a result, and no more. The fuzzer runs these with what it finds,
//! `make test` with mutated seeds.

use tidemill_manifest::{Manifest, embed, embedded};

/// A manifest, from its text.
pub(crate) fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match Manifest::parse(text, "service.toml") {
        Ok(manifest) => {
            let limits = &manifest.limits;
            assert!(limits.memory <= limits.memory_total);
            assert!(limits.request <= limits.memory && limits.response <= limits.memory);
            assert!(limits.event <= limits.memory && limits.event <= limits.effects_size);
            assert!(manifest.http.is_some() || !manifest.subscribe.is_empty());
        }
        Err(error) => {
            assert!(!error.problems().is_empty());
            assert!(error.to_string().len() < 200 * (text.len() + 1000));
        }
    }
}

/// The section that a manifest is in.
pub(crate) fn section(bytes: &[u8]) {
    let _ = embedded(bytes);
    let again = embed(bytes, "name = \"b\"");
    if embedded(bytes).is_ok() {
        assert_eq!(embedded(&again), Ok(Some("name = \"b\"".to_owned())));
        assert_eq!(embed(&again, "name = \"b\""), again);
    }
}
