//! The packages in a component: a software bill of materials, as CycloneDX 1.6
//! writes it in JSON. Only the fields that are used.

use serde::{Deserialize, Serialize};

/// What was built, and of what.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sbom {
    bom_format: String,
    spec_version: String,
    version: u32,
    metadata: Metadata,
    #[serde(default)]
    components: Vec<Part>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Metadata {
    component: Part,
}

/// A package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    #[serde(rename = "type")]
    kind: Kind,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) version: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    licenses: Vec<Licence>,
    /// Where it comes from, as a package URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    purl: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Application,
    Library,
    #[serde(other)]
    Other,
}

/// An SPDX expression, or, for what SPDX does not know, a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Licence {
    Expression(String),
    License(Named),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Named {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl Part {
    /// A package with its licence in canonical form.
    pub(crate) fn new(name: &str, version: &str, licence: Option<String>, public: bool) -> Self {
        let licence = licence.map(|licence| {
            if crate::licences::is_known(&licence) {
                Licence::Expression(licence)
            } else {
                Licence::License(Named {
                    id: None,
                    name: Some(licence),
                })
            }
        });
        Self {
            kind: Kind::Library,
            name: name.to_owned(),
            version: version.to_owned(),
            licenses: licence.into_iter().collect(),
            purl: public.then(|| format!("pkg:cargo/{name}@{version}")),
        }
    }

    pub(crate) fn licence(&self) -> Option<&str> {
        match self.licenses.first()? {
            Licence::Expression(expression) => Some(expression),
            Licence::License(named) => named.id.as_deref().or(named.name.as_deref()),
        }
    }
}

impl Sbom {
    pub(crate) fn new(mut root: Part, mut parts: Vec<Part>) -> Self {
        root.kind = Kind::Application;
        parts.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        Self {
            bom_format: "CycloneDX".to_owned(),
            spec_version: "1.6".to_owned(),
            version: 1,
            metadata: Metadata { component: root },
            components: parts,
        }
    }

    /// What was built.
    pub(crate) fn root(&self) -> &Part {
        &self.metadata.component
    }

    /// The packages that it was built of.
    pub(crate) fn parts(&self) -> &[Part] {
        &self.components
    }

    /// The licence of each package, that of what was built first.
    pub(crate) fn licences(&self) -> impl Iterator<Item = Option<&str>> {
        std::iter::once(self.root())
            .chain(&self.components)
            .map(Part::licence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bill_is_what_the_format_says_and_comes_back() {
        let part = |name: &str, licence: &str, public| {
            Part::new(name, "1.0.0", Some(licence.to_owned()), public)
        };
        let root = Part::new("shop", "0.1.0", None, false);
        let parts = vec![part("b", "ask us", false), part("a", "MIT", true)];
        let json = serde_json::to_string(&Sbom::new(root, parts.clone())).expect("it is JSON");
        assert_eq!(
            json,
            r#"{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"metadata":{"component":{"type":"application","name":"shop","version":"0.1.0"}},"components":[{"type":"library","name":"a","version":"1.0.0","licenses":[{"expression":"MIT"}],"purl":"pkg:cargo/a@1.0.0"},{"type":"library","name":"b","version":"1.0.0","licenses":[{"license":{"name":"ask us"}}]}]}"#
        );
        let back: Sbom = serde_json::from_str(&json).expect("it is read");
        assert_eq!(back.parts(), [parts[1].clone(), parts[0].clone()]);
        let licences: Vec<_> = back.licences().collect();
        assert_eq!(licences, [None, Some("MIT"), Some("ask us")]);
    }
}
