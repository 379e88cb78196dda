//! `tidemill new`: a project that builds, tests and deploys as it is.
//!
//! The template is in `template/`; the SDK and the contract come along in
//! `.tidemill/`, as they were when this command was built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::failure::Failure;
use crate::show::{self, GOOD};

/// `FILES`: what goes into `.tidemill/`. `VERSIONS`: of the workspace's
/// dependencies.
mod bundle {
    include!(concat!(env!("OUT_DIR"), "/bundle.rs"));
}

const TEMPLATE: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("../../template/Cargo.toml.tmpl")),
    ("src/lib.rs", include_str!("../../template/lib.rs.tmpl")),
    (
        "service.toml",
        include_str!("../../template/service.toml.tmpl"),
    ),
    ("README.md", include_str!("../../template/README.md.tmpl")),
    (".gitignore", include_str!("../../template/gitignore.tmpl")),
];

/// Names that a crate can't have, or that would hide one that it uses.
const TAKEN: &[&str] = &[
    // Rust's keywords.
    "abstract",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "struct",
    "super",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
    // Rust's own crates.
    "alloc",
    "core",
    "proc_macro",
    "std",
    "test",
    // What the template uses.
    "axum",
    "serde",
    "serde_json",
    "tidemill",
    "utoipa",
    "utoipa_axum",
];

const EXAMPLES: &str = "\
Examples:
  tidemill new shop                 a project in ./shop
  tidemill new shop --dir services/shop

Then:
  cd shop && cargo test             tests run without a host
  tidemill build && tidemill deploy

The project has an HTTP route that publishes, one that reads state, an event
handler, their tests, and a manifest with comments. It needs nothing of this
machine: the SDK is in its .tidemill folder.";

/// What `tidemill new` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The service's name: a-z, 0-9 and -, beginning with a letter
    name: String,
    /// Where to put it, instead of a folder of its name here
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    if let Err(rule) = tidemill_manifest::check_name(&args.name) {
        return Err(
            Failure::new(format!("{:?} cannot be a service's name", args.name))
                .hint(rule)
                .into(),
        );
    }
    let dir = args.dir.unwrap_or_else(|| PathBuf::from(&args.name));
    check_empty(&dir)?;
    for (path, content) in files(&args.name) {
        write(&dir.join(path), &content)?;
    }
    show::print(&render(&args.name, &dir))?;
    Ok(ExitCode::SUCCESS)
}

fn check_empty(dir: &Path) -> Result<()> {
    let shown = dir.display();
    let Ok(mut entries) = fs::read_dir(dir) else {
        if dir.exists() {
            return Err(
                Failure::new(format!("{shown} is there already, and no folder"))
                    .hint("choose another name, or another place with --dir")
                    .into(),
            );
        }
        return Ok(());
    };
    if entries.next().is_some() {
        return Err(Failure::new(format!("the folder {shown} is not empty"))
            .hint("choose another name, or another place with --dir")
            .into());
    }
    Ok(())
}

/// All files of a new project, by their path in it.
fn files(name: &str) -> Vec<(String, String)> {
    let crate_name = name.replace('-', "_");
    let (package, lib) = if TAKEN.contains(&crate_name.as_str()) {
        (format!("{name}-service"), format!("{crate_name}_service"))
    } else {
        (name.to_owned(), crate_name.clone())
    };
    let values = [
        ("name", name),
        ("package", &package),
        ("lib", &lib),
        ("topic", &topic(&crate_name)),
        ("rust", env!("CARGO_PKG_RUST_VERSION")),
    ]
    .map(|(key, value)| (key, value.to_owned()));
    let versions = bundle::VERSIONS
        .iter()
        .map(|(key, value)| (*key, (*value).to_owned()));
    let values: Vec<(&str, String)> = values.into_iter().chain(versions).collect();
    let template = TEMPLATE.iter().map(|(path, template)| {
        let content = values
            .iter()
            .fold((*template).to_owned(), |text, (key, value)| {
                text.replace(&format!("{{{{{key}}}}}"), value)
            });
        ((*path).to_owned(), content)
    });
    let bundled = bundle::FILES
        .iter()
        .map(|(path, content)| (format!(".tidemill/{path}"), (*content).to_owned()));
    template.chain(bundled).collect()
}

fn topic(crate_name: &str) -> String {
    format!("{crate_name}_topic")
}

fn write(file: &Path, content: &str) -> Result<()> {
    let made = file.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| fs::write(file, content))
        .with_context(|| format!("cannot write {}", file.display()))
}

fn render(name: &str, dir: &Path) -> String {
    let dir = dir.display().to_string();
    let quoted = if dir.contains(char::is_whitespace) {
        format!("'{dir}'")
    } else {
        dir
    };
    format!(
        "{} {name}: HTTP routes, an event handler, tests and a manifest. Next:\n\
         \x20 cd {quoted}\n\
         \x20 tidemill build\n\
         \x20 tidemill deploy\n",
        show::styled(GOOD, "Created")
    )
}

#[cfg(test)]
mod tests {
    use tidemill_manifest::Manifest;

    use super::*;

    fn file(name: &str, path: &str) -> String {
        files(name)
            .into_iter()
            .find(|(other, _)| other == path)
            .map(|(_, content)| content)
            .unwrap_or_else(|| panic!("no {path}"))
    }

    #[test]
    fn the_manifest_follows_the_name() {
        for name in ["shop", "my-shop", "test", "match", "a"] {
            let text = file(name, "service.toml");
            let manifest = Manifest::parse(&text, "service.toml").expect("it is valid");
            assert_eq!(manifest.name, name);
            let topic = format!("{}_topic", name.replace('-', "_"));
            assert_eq!(manifest.subscribe[0].topic, topic);
            assert_eq!(manifest.grants.publish, [topic]);
        }
    }

    #[test]
    fn the_limits_in_the_comments_are_the_defaults() {
        let text = file("shop", "service.toml");
        let (_, comments) = text.split_once("# [limits]\n").expect("the limits");
        let limits: String = comments
            .lines()
            .take_while(|line| line.contains('='))
            .map(|line| format!("{}\n", line.trim_start_matches("# ")))
            .collect();
        let text = format!("name = \"a\"\n[http]\nroutes = [\"/\"]\n[limits]\n{limits}");
        let manifest = Manifest::parse(&text, "service.toml").expect("it is valid");
        assert_eq!(manifest.limits, tidemill_manifest::Limits::default());
        assert_eq!(limits.lines().count(), 8);
    }

    #[test]
    fn nothing_is_left_to_fill_in_and_nothing_of_the_workspace() {
        for (path, content) in files("shop") {
            if !path.starts_with(".tidemill") {
                assert!(!content.contains("{{"), "{path}:\n{content}");
            }
            if path.ends_with("Cargo.toml") {
                assert!(!content.contains("workspace = true"), "{path}:\n{content}");
                assert!(!content.contains("[lints"), "{path}:\n{content}");
            }
        }
        assert!(file("shop", ".tidemill/wit/worlds.wit").contains("world"));
        assert!(file("shop", ".tidemill/sdk/src/lib.rs").contains("service!"));
    }

    #[test]
    fn a_name_that_rust_has_taken_gets_another_crate() {
        assert!(file("match", "Cargo.toml").contains("name = \"match-service\""));
        assert!(file("test", "Cargo.toml").contains("name = \"test_service\""));
        assert!(file("my-shop", "Cargo.toml").contains("name = \"my_shop\""));
    }
}
