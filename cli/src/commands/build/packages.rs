//! What cargo says of the packages that a service is built of: their licences,
//! and where their source is on this machine.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Result;
use serde::Deserialize;
use tidemill_manifest::Section;
use ureq::http::Uri;

use super::TARGET;
use super::flags::Prefix;
use crate::licences::{self, canonical};
use crate::project;
use crate::sbom::{Part, Sbom};

/// All packages of a build, and the folders that it is done in.
#[derive(Debug, Deserialize)]
pub(super) struct Packages {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    /// Where it was fetched from; none for what is on this machine only.
    source: Option<String>,
    manifest_path: PathBuf,
}

impl Packages {
    /// Asks cargo, with the arguments of the build that it understands.
    pub(super) fn ask(dir: &Path, cargo: &[String]) -> Result<Self> {
        let mut arguments = vec!["--filter-platform", TARGET];
        arguments.extend(shared(cargo));
        // The first time it fetches them, which takes long.
        project::metadata(dir, &arguments, Stdio::inherit())
    }

    /// Where sources are on this machine, and what they are called in what is
    /// built, so that it is the same wherever it is built.
    pub(super) fn prefixes(&self) -> Vec<Prefix> {
        // The last one that fits counts.
        let mut prefixes = vec![
            Prefix::new(&self.workspace_root, "/build"),
            Prefix::new(&self.target_directory, "/target"),
        ];
        for package in &self.packages {
            let Some(dir) = package.manifest_path.parent() else {
                continue;
            };
            let prefix = match (&package.source, dir.parent()) {
                (Some(source), Some(all)) if is_registry(source) => Prefix::new(all, "/packages"),
                (None, _) if dir.starts_with(&self.workspace_root) => continue,
                _ => {
                    let name = format!("/packages/{}-{}", package.name, package.version);
                    Prefix::new(dir, &name)
                }
            };
            if !prefixes.contains(&prefix) {
                prefixes.push(prefix);
            }
        }
        prefixes
    }

    /// What the file says of where it comes from: the texts of sections. `dir` is
    /// the service's, `built` are the ids of what was compiled into it.
    pub(super) fn sections(
        &self,
        dir: &Path,
        built: &HashSet<String>,
    ) -> Result<Vec<(Section, String)>> {
        let manifest = dir.join("Cargo.toml");
        let is_root = |package: &Package| package.manifest_path == manifest;
        let Some(root) = self.packages.iter().find(|package| is_root(package)) else {
            return Ok(Vec::new());
        };
        let parts = self
            .packages
            .iter()
            .filter(|package| built.contains(&package.id) && !is_root(package));
        let sbom = Sbom::new(root.part(), parts.map(Package::part).collect());
        let mut sections = vec![(Section::Sbom, serde_json::to_string(&sbom)?)];
        if let Some(whole) = licences::whole(sbom.licences()) {
            sections.push((Section::Licenses, whole));
        }
        if let Some(url) = root.repository.as_deref().filter(|url| is_url(url)) {
            sections.push((Section::Source, url.to_owned()));
        }
        Ok(sections)
    }
}

impl Package {
    fn part(&self) -> Part {
        let public = self.source.as_deref().is_some_and(is_registry);
        let licence = self.license.as_deref().map(canonical);
        Part::new(&self.name, &self.version, licence, public)
    }
}

fn is_registry(source: &str) -> bool {
    source.starts_with("registry+") || source.starts_with("sparse+")
}

/// Other tools refuse a file whose source is no URL.
fn is_url(text: &str) -> bool {
    let web = text.starts_with("https://") || text.starts_with("http://");
    web && text.parse::<Uri>().is_ok_and(|uri| uri.host().is_some())
}

/// Those of the arguments for `cargo build` that say which packages there are.
fn shared(arguments: &[String]) -> Vec<&str> {
    let mut shared = Vec::new();
    let mut arguments = arguments.iter().map(String::as_str);
    while let Some(argument) = arguments.next() {
        match argument {
            "--features" | "-F" => {
                shared.push(argument);
                shared.extend(arguments.next());
            }
            "--all-features" | "--no-default-features" | "--locked" | "--offline" | "--frozen" => {
                shared.push(argument)
            }
            _ if argument.starts_with("--features=") || argument.starts_with("-F") => {
                shared.push(argument);
            }
            _ => {}
        }
    }
    shared
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn packages() -> Packages {
        let package = |name: &str, dir: &str, source: Option<&str>, license: &str| {
            json!({
                "id": name, "name": name, "version": "1.0.0", "license": license,
                "repository": "https://example.com/shop",
                "source": source, "manifest_path": format!("{dir}/Cargo.toml"),
            })
        };
        let registry = Some("registry+https://example.com/index");
        serde_json::from_value(json!({
            "workspace_root": "/home/ada/shop",
            "target_directory": "/home/ada/shop/target",
            "packages": [
                package("shop", "/home/ada/shop", None, "Apache-2.0"),
                package("sdk", "/home/ada/shop/.tidemill/sdk", None, "Apache-2.0"),
                package("axum", "/home/ada/.cargo/registry/src/x-1/axum-1.0.0", registry, "MIT"),
                package("http", "/home/ada/.cargo/registry/src/x-1/http-1.0.0", registry, "MIT/Apache-2.0"),
                package("macros", "/home/ada/.cargo/registry/src/x-1/macros-1.0.0", registry, "Zlib"),
                package("shared", "/home/ada/shared", None, "MIT"),
            ],
        }))
        .expect("it is what cargo says")
    }

    #[test]
    fn no_folder_of_this_machine_is_left_in_a_path() {
        let prefixes = packages().prefixes();
        let shown: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "/home/ada/shop=/build",
                "/home/ada/shop/target=/target",
                "/home/ada/.cargo/registry/src/x-1=/packages",
                "/home/ada/shared=/packages/shared-1.0.0",
            ]
        );
    }

    #[test]
    fn only_what_was_compiled_into_it_is_in_the_bill() {
        let built = ["shop", "axum", "http"].map(str::to_owned).into();
        let sections = packages()
            .sections(Path::new("/home/ada/shop"), &built)
            .expect("sections");
        let text = |section| {
            let mut found = sections.iter().filter(|(one, _)| *one == section);
            found.next().map(|(_, text)| text.as_str())
        };
        let sbom: Sbom = serde_json::from_str(text(Section::Sbom).expect("a bill")).expect("JSON");
        assert_eq!(sbom.root().name, "shop");
        let names: Vec<&str> = sbom.parts().iter().map(|part| &*part.name).collect();
        assert_eq!(names, ["axum", "http"]);
        assert_eq!(
            text(Section::Licenses),
            Some("Apache-2.0 AND (Apache-2.0 OR MIT) AND MIT")
        );
        assert_eq!(text(Section::Source), Some("https://example.com/shop"));
    }

    #[test]
    fn what_chooses_packages_is_told_to_both_commands() {
        let arguments = ["-v", "--features", "a,b", "-Fc", "--locked", "--jobs", "1"];
        let arguments = arguments.map(str::to_owned);
        assert_eq!(shared(&arguments), ["--features", "a,b", "-Fc", "--locked"]);
    }

    #[test]
    fn a_source_is_a_url() {
        assert!(is_url("https://example.com/shop"));
        for other in [
            "",
            "shop",
            "git@example.com:shop",
            "https://",
            "https://a b",
        ] {
            assert!(!is_url(other), "{other}");
        }
    }
}
