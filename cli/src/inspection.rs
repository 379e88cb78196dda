//! What is in a component file, and what it could do if a host ran it. Read from
//! the file alone; nothing of it is run.

mod abilities;
mod anatomy;
mod limits;
mod operations;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use tidemill_manifest::{Manifest, Section, section, without_secrets};

use crate::failure::Failure;
use crate::project::{self, MANIFEST};
use crate::sbom::{Part, Sbom};
pub(crate) use abilities::Abilities;
use anatomy::Anatomy;
pub(crate) use anatomy::Piece;
pub(crate) use limits::Amount;
pub(crate) use operations::Operation;

/// Behind the commit in a file: there were changes beside it.
pub(crate) const DIRTY: &str = "-dirty";

/// Everything that a file says.
#[derive(Debug, Serialize)]
pub(crate) struct Inspection {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) file: PathBuf,
    /// SHA-256 of the file, by which a host names the revision.
    pub(crate) digest: String,
    pub(crate) size: u64,
    /// What takes the size, the largest first.
    pub(crate) pieces: Vec<Piece>,
    pub(crate) routes: Vec<String>,
    pub(crate) subscribes: Vec<String>,
    pub(crate) grants: Grants,
    /// In bytes, milliseconds and numbers.
    #[serde(serialize_with = "as_map")]
    pub(crate) limits: Vec<(&'static str, Amount)>,
    pub(crate) settings: BTreeMap<String, String>,
    /// `service.toml`, without secrets.
    pub(crate) manifest: String,
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
    #[serde(flatten)]
    pub(crate) abilities: Abilities,
    /// What its OpenAPI document has, if it carries one.
    pub(crate) operations: Option<Vec<Operation>>,
    /// The commit that it was made of, with [`DIRTY`] behind it or not.
    pub(crate) revision: Option<String>,
    /// Where its source is.
    pub(crate) source: Option<String>,
    /// The licence of all of it, as an SPDX expression.
    pub(crate) licence: Option<String>,
    /// What it is made of, the service's own package first.
    pub(crate) packages: Vec<Package>,
}

/// What the manifest grants.
#[derive(Debug, Serialize)]
pub(crate) struct Grants {
    pub(crate) publish: Vec<String>,
    pub(crate) state: bool,
}

/// A package that went into it.
#[derive(Debug, Serialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) licence: Option<String>,
}

fn as_map<S: Serializer>(
    limits: &[(&'static str, Amount)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(limits.iter().copied())
}

impl Inspection {
    /// Reads a component that has a manifest in it. `file` is where it is.
    ///
    /// # Errors
    /// It has none, or it is damaged.
    pub(crate) fn of(component: &[u8], file: &Path) -> Result<Self> {
        let shown = project::shown(file);
        let damaged = |why: String| Failure::new(format!("{shown} is damaged")).detail(why);
        let read = |which| section(component, which).map_err(|error| damaged(error.to_string()));
        let json = |which: Section, error: serde_json::Error| {
            damaged(format!(
                "the section {} is not what it should be: {error}",
                which.name()
            ))
        };
        let text = read(Section::Manifest)?
            .ok_or_else(|| Failure::new(format!("{shown} has no manifest in it")))?;
        let (text, manifest) = shown_manifest(&text).map_err(|error| {
            Failure::new(format!("the manifest in {shown} is not valid")).detail(error.to_string())
        })?;
        let anatomy = Anatomy::of(component).map_err(damaged)?;
        let operations = read(Section::OpenApi)?
            .map(|document| operations::of(&document))
            .transpose()
            .map_err(|error| json(Section::OpenApi, error))?;
        let packages = read(Section::Sbom)?
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|error| json(Section::Sbom, error))?;
        let routes = manifest.http.iter().flat_map(|http| &http.routes);
        let topics = manifest.subscribe.iter();
        Ok(Self {
            file: file.to_owned(),
            digest: hex(&Sha256::digest(component)),
            size: component.len() as u64,
            pieces: anatomy.pieces,
            routes: routes.map(ToString::to_string).collect(),
            subscribes: topics.map(|one| one.topic.clone()).collect(),
            limits: limits::of(&manifest.limits),
            abilities: Abilities::of(&manifest, &anatomy.imports, &anatomy.exports),
            imports: anatomy.imports,
            exports: anatomy.exports,
            operations,
            revision: read(Section::Revision)?,
            source: read(Section::Source)?,
            licence: read(Section::Licenses)?,
            packages: packages.as_ref().map(packages_of).unwrap_or_default(),
            name: manifest.name,
            description: manifest.description,
            grants: Grants {
                publish: manifest.grants.publish,
                state: manifest.grants.state,
            },
            settings: manifest.settings,
            manifest: text,
        })
    }
}

/// A manifest as it may be shown to others.
fn shown_manifest(text: &str) -> Result<(String, Manifest), tidemill_manifest::ManifestError> {
    // Its errors are about the text as it is.
    Manifest::parse(text, MANIFEST)?;
    let text = without_secrets(text);
    let manifest = Manifest::parse(&text, MANIFEST)?;
    Ok((text, manifest))
}

fn packages_of(sbom: &Sbom) -> Vec<Package> {
    let package = |part: &Part| Package {
        name: part.name.clone(),
        version: part.version.clone(),
        licence: part.licence().map(str::to_owned),
    };
    let all = std::iter::once(sbom.root()).chain(sbom.parts());
    all.map(package).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a file of a service might say.
    pub(crate) fn order() -> Inspection {
        let text = "name = \"order\"\ndescription = \"Orders, made from users\"\n\
                    [http]\nroutes = [\"/orders\"]\n\
                    [[subscribe]]\ntopic = \"user_topic\"\n\
                    [grants]\npublish = [\"order_topic\"]\nstate = true\n\
                    [settings]\ncurrency = \"EUR\"\nmail-password = \"hunter2\"\n";
        let plain = b"\0asm\x0d\0\x01\0";
        let component = tidemill_manifest::embed(plain, text);
        let file = Path::new("/elsewhere/target/tidemill/order.wasm");
        let read = Inspection::of(&component, file).expect("it can be read");
        let (_, manifest) = shown_manifest(text).expect("it is valid");
        let imports = [
            "tidemill:service/publisher@0.1.0",
            "tidemill:service/state@0.1.0",
            "wasi:clocks/wall-clock@0.2.6",
            "wasi:filesystem/types@0.2.6",
        ]
        .map(str::to_owned);
        let exports = [
            "tidemill:service/http@0.1.0",
            "tidemill:service/events@0.1.0",
        ]
        .map(str::to_owned);
        let package = |name: &str, licence: Option<&str>| Package {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: licence.map(str::to_owned),
        };
        let operation = |method: &str, path: &str, summary: &str| Operation {
            method: method.to_owned(),
            path: path.to_owned(),
            summary: summary.to_owned(),
        };
        let piece = |name: &str, size| Piece {
            name: name.to_owned(),
            size,
        };
        Inspection {
            digest: "0123456789abcdef".repeat(4),
            size: 417_321,
            pieces: vec![piece("code", 400_000), piece("tidemill:sbom", 17_321)],
            abilities: Abilities::of(&manifest, &imports, &exports),
            imports: imports.to_vec(),
            exports: exports.to_vec(),
            operations: Some(vec![
                operation("GET", "/orders", "The orders so far"),
                operation("DELETE", "/orders/{id}", ""),
            ]),
            revision: Some(format!("3f2a9c01b2d4{}{DIRTY}", "0".repeat(28))),
            source: Some("https://example.com/shop".to_owned()),
            licence: None,
            packages: vec![
                package("order", None),
                package("axum", Some("MIT")),
                package("http", Some("MIT")),
            ],
            ..read
        }
    }

    #[test]
    fn secrets_are_not_read_out() {
        let order = order();
        assert_eq!(order.settings["mail-password"], "…");
        assert_eq!(order.settings["currency"], "EUR");
        let json = serde_json::to_string(&order).expect("it is JSON");
        assert!(!json.contains("hunter2"), "{json}");
    }

    #[test]
    fn limits_are_numbers_under_the_manifests_names() {
        let json = serde_json::to_value(order()).expect("it is JSON");
        assert_eq!(json["limits"]["memory"], 64 << 20);
        assert_eq!(json["limits"]["time"], 5_000);
        assert_eq!(json["limits"]["concurrency"], 64);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let plain = b"\0asm\x0d\0\x01\0";
        let valid = "name = \"a\"\n[http]\nroutes = [\"/\"]\n";
        let whole = tidemill_manifest::embed(plain, valid);
        let bad_code = [&whole[..], &[4, 3, 1, 2, 3]].concat();
        let no_json = tidemill_manifest::with_section(&whole, Section::OpenApi, "openapi");
        for (file, said) in [
            (plain.to_vec(), "has no manifest"),
            (whole[..whole.len() - 3].to_vec(), "is damaged"),
            (bad_code, "is damaged"),
            (no_json, "is damaged"),
            (tidemill_manifest::embed(plain, "nam = 1"), "is not valid"),
        ] {
            let error = Inspection::of(&file, Path::new("a.wasm")).expect_err(said);
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
