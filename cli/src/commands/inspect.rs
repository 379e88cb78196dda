//! `tidemill inspect`: what is in a component file, and what it could do if it
//! were deployed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use tidemill_manifest::{Section, section, unversioned};

use super::deploy;
use crate::failure::Failure;
use crate::inspection::{DIRTY, Grants, Inspection, Operation, Package};
use crate::licences;
use crate::show::{self, Align, BOLD, DIM, ERROR, FINE, HINT, WARNING};

const EXAMPLES: &str = "\
Examples:
  tidemill inspect order.wasm          what is in it, and what it could do
  tidemill inspect                     the service in this directory, as built last
  tidemill inspect order.wasm --manifest staging.toml
                                       as it would be deployed with another manifest
  tidemill inspect order.wasm --licences
                                       each package in it, with its licence
  tidemill inspect order.wasm --section tidemill:sbom > sbom.json
                                       one section as it is: here for a scanner of
                                       vulnerabilities, which reads CycloneDX
  tidemill inspect order.wasm --json | jq .can

Nothing of the file is run, and no host is asked.";

/// What `tidemill inspect` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A component, or the directory of a service that is built
    #[arg(value_name = "FILE", default_value = ".")]
    path: PathBuf,
    /// Show it with this manifest instead of the one in it
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// List each package in it with its licence
    #[arg(long, visible_alias = "licenses")]
    licences: bool,
    /// Print a section of it, as it is in the file
    #[arg(long, value_name = "NAME", value_parser = parse_section, conflicts_with_all = ["licences", "json"])]
    section: Option<Section>,
    /// Print all of it as JSON
    #[arg(long)]
    json: bool,
}

fn parse_section(name: &str) -> Result<Section, String> {
    let mut all = Section::ALL.into_iter();
    all.find(|section| section.name() == name).ok_or_else(|| {
        let names = Section::ALL.map(Section::name);
        format!("the sections are {}", names.join(", "))
    })
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let (file, component) = deploy::component(&args.path, args.manifest.as_deref())?;
    if let Some(which) = args.section {
        let Some(text) = section(&component, which)? else {
            let shown = file.display();
            return Err(
                Failure::new(format!("{shown} has no section {}", which.name()))
                    .hint("`tidemill build` puts in what it knows")
                    .into(),
            );
        };
        // Past what is for terminals: it may be read by a program.
        std::io::stdout().write_all(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let inspection = Inspection::of(&component, &file)?;
    if args.json {
        show::print(&format!("{}\n", serde_json::to_string_pretty(&inspection)?))?;
    } else {
        show::print(&render(&inspection, args.licences))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(file: &Inspection, packages: bool) -> String {
    let mut text = show::styled(BOLD, &file.name);
    if !file.description.is_empty() {
        text.push_str(&format!("  {}", show::line(&file.description, 100)));
    }
    text.push('\n');
    text.push_str(&show::fields(&origin(file)));
    text.push_str(&could(file));
    if let Some(operations) = &file.operations {
        text.push_str(&table_of(operations));
    }
    text.push_str(&headed("Limits", &limits(file)));
    if !file.settings.is_empty() {
        text.push_str(&headed("Settings", &settings(file)));
    }
    text.push_str(&headed(
        "Interfaces",
        &show::fields(&[
            ("imports", interfaces(&file.imports)),
            ("exports", interfaces(&file.exports)),
        ]),
    ));
    if packages {
        text.push_str(&list(&file.packages));
    } else {
        text.push_str(&sums(&file.packages));
    }
    text
}

fn headed(title: &str, text: &str) -> String {
    format!("\n{BOLD}{title}{BOLD:#}\n{text}")
}

/// What the file is, and where it comes from.
fn origin(file: &Inspection) -> Vec<(&'static str, String)> {
    let mut fields = vec![("digest", file.digest.clone()), ("size", size(file))];
    if let Some(own) = file.packages.first() {
        let version = format!("{} {}", own.name, own.version);
        fields.push(("package", show::line(&version, 100)));
    }
    fields.push((
        "source",
        match &file.revision {
            Some(revision) => commit(revision),
            None => format!("{DIM}no commit is known{DIM:#}"),
        },
    ));
    if let Some(source) = &file.source {
        fields.push(("", show::line(source, 200)));
    }
    if let Some(licence) = &file.licence {
        fields.push(("licence", show::line(licence, 200)));
    }
    fields
}

/// How large it is, and what takes it.
fn size(file: &Inspection) -> String {
    let pieces = file.pieces.iter().map(|piece| {
        let name = show::line(&piece.name, 60);
        format!("{name} {DIM}{}{DIM:#}", show::size(piece.size))
    });
    format!("{}\n{}", show::size(file.size), wrapped("", pieces))
}

/// Items in lines that fit on a terminal, those after the first indented.
fn wrapped(label: &str, items: impl Iterator<Item = String>) -> String {
    const WIDTH: usize = 88;
    let mut lines = vec![label.to_owned()];
    let mut items = items.peekable();
    while let Some(mut item) = items.next() {
        if items.peek().is_some() {
            item.push(',');
        }
        match lines.last_mut() {
            Some(line) if show::visible(line) + show::visible(&item) < WIDTH => {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(&item);
            }
            _ => lines.push(format!("  {item}")),
        }
    }
    lines.join("\n")
}

/// A commit, and whether it is all there is.
pub(super) fn commit(revision: &str) -> String {
    let (commit, changes) = match revision.strip_suffix(DIRTY) {
        Some(commit) => (
            commit,
            format!(", {WARNING}and changes that are not committed{WARNING:#}"),
        ),
        None => (revision, String::new()),
    };
    format!("commit {}{changes}", show::line(commit, 64))
}

/// What it could do, in sentences.
fn could(file: &Inspection) -> String {
    let abilities = &file.abilities;
    let mut lines: Vec<String> = Vec::new();
    for why in &abilities.refused {
        lines.push(format!(
            "{ERROR}no host takes it:{ERROR:#} {}",
            show::clean(why)
        ));
    }
    for sentence in &abilities.can {
        lines.push(format!("{FINE}+{FINE:#} {}", show::clean(sentence)));
    }
    lines.push(format!(
        "{DIM}- nothing else: no files, no network, no environment{DIM:#}"
    ));
    for sentence in &abilities.unused {
        lines.push(format!(
            "{HINT}?{HINT:#} {} {DIM}(granted, and never asked for){DIM:#}",
            show::clean(sentence)
        ));
    }
    headed("Deployed, it can", &indented(&lines))
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("  {line}\n")).collect()
}

fn table_of(operations: &[Operation]) -> String {
    let methods = operations.iter().map(|one| one.method.len());
    let paths = operations.iter().map(|one| one.path.chars().count());
    let (method, path) = (methods.max().unwrap_or(0), paths.max().unwrap_or(0).min(60));
    let lines: Vec<String> = operations
        .iter()
        .map(|one| {
            let what = format!(
                "{:method$}  {:path$}",
                one.method,
                show::line(&one.path, 200)
            );
            if one.summary.is_empty() {
                return what.trim_end().to_owned();
            }
            format!("{what}  {DIM}{}{DIM:#}", show::line(&one.summary, 80))
        })
        .collect();
    headed("Operations", &indented(&lines))
}

fn limits(file: &Inspection) -> String {
    // Four in a row.
    let cells: Vec<String> = file
        .limits
        .iter()
        .map(|(name, amount)| format!("{DIM}{name}{DIM:#} {amount}"))
        .collect();
    columns(&cells, 4)
}

fn settings(file: &Inspection) -> String {
    let lines: Vec<String> = file
        .settings
        .iter()
        .map(|(name, value)| {
            format!(
                "{} {DIM}={DIM:#} {}",
                show::line(name, 60),
                show::line(value, 100)
            )
        })
        .collect();
    indented(&lines)
}

/// Cells in so many columns, read by rows.
fn columns(cells: &[String], count: usize) -> String {
    let widths: Vec<usize> = (0..count)
        .map(|column| {
            let cells = cells.iter().skip(column).step_by(count);
            cells.map(|cell| show::visible(cell)).max().unwrap_or(0)
        })
        .collect();
    let rows: Vec<String> = cells
        .chunks(count)
        .map(|row| {
            let last = row.len() - 1;
            row.iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| {
                    let padding = if column == last {
                        0
                    } else {
                        width - show::visible(cell) + 3
                    };
                    format!("{cell}{}", " ".repeat(padding))
                })
                .collect()
        })
        .collect();
    indented(&rows)
}

/// Interfaces, a line for each package of them.
pub(super) fn interfaces(names: &[String]) -> String {
    let mut packages: Vec<(&str, Vec<&str>)> = Vec::new();
    for name in names {
        let name = unversioned(name);
        let (package, interface) = name.split_once('/').unwrap_or((name, ""));
        match packages.iter_mut().find(|(one, _)| *one == package) {
            Some((_, interfaces)) => interfaces.push(interface),
            None => packages.push((package, vec![interface])),
        }
    }
    packages.sort_unstable();
    let lines: Vec<String> = packages
        .into_iter()
        .map(|(package, interfaces)| {
            let label = format!("{}:", show::line(package, 100));
            let interfaces = interfaces.into_iter();
            wrapped(&label, interfaces.map(|name| show::line(name, 100)))
        })
        .collect();
    or_nothing(lines.join("\n"))
}

/// The packages of interfaces, in a line for each namespace; of Tidemill's own the
/// interfaces.
pub(super) fn packages_of(names: &[String]) -> String {
    let mut spaces: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in names {
        let name = unversioned(name);
        let (package, interface) = name.split_once('/').unwrap_or((name, name));
        let (space, package) = package.split_once(':').unwrap_or((package, package));
        let what = if space == "tidemill" {
            interface
        } else {
            package
        };
        spaces.entry(space).or_default().insert(what);
    }
    let lines: Vec<String> = spaces
        .into_iter()
        .map(|(space, what)| {
            let label = format!("{}:", show::line(space, 100));
            wrapped(&label, what.into_iter().map(|name| show::line(name, 100)))
        })
        .collect();
    or_nothing(lines.join("\n"))
}

fn or_nothing(text: String) -> String {
    if text.is_empty() {
        "nothing".to_owned()
    } else {
        text
    }
}

/// What the manifest grants, in a line.
pub(super) fn grants(grants: &Grants) -> String {
    let mut granted = Vec::new();
    if !grants.publish.is_empty() {
        granted.push(format!("publish to {}", grants.publish.join(", ")));
    }
    if grants.state {
        granted.push("state".to_owned());
    }
    or_nothing(granted.join("; "))
}

fn list(packages: &[Package]) -> String {
    let head = [
        ("PACKAGE", Align::Left),
        ("VERSION", Align::Left),
        ("LICENCE", Align::Left),
    ];
    let rows: Vec<Vec<String>> = packages
        .iter()
        .map(|package| {
            let licence = package.licence.as_deref().unwrap_or(licences::NONE);
            [&package.name, &package.version, licence]
                .map(|cell| show::line(cell, 100))
                .to_vec()
        })
        .collect();
    format!("\n{}", show::table(&head, &rows))
}

/// How many packages have each licence.
fn sums(packages: &[Package]) -> String {
    if packages.is_empty() {
        return String::new();
    }
    let all = packages.iter().map(|package| package.licence.as_deref());
    let lines: Vec<String> = licences::summed(all)
        .iter()
        .map(|(licence, count)| format!("{count:>3}  {}", show::line(licence, 100)))
        .collect();
    let title = format!(
        "Licences of {}",
        show::several(packages.len() as u64, "package")
    );
    headed(&title, &indented(&lines))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspection::tests::order;

    #[test]
    fn a_file_is_shown_whole() {
        assert_eq!(
            show::plain(&render(&order(), false)),
            "order  Orders, made from users\n  \
               digest   0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n  \
               size     417 kB\n           \
                        code 400 kB, tidemill:sbom 17.3 kB\n  \
               package  order 1.0.0\n  \
               source   commit 3f2a9c01b2d40000000000000000000000000000, and changes that are not committed\n           \
                        https://example.com/shop\n\
             \nDeployed, it can\n  \
               + answer /orders, and all below\n  \
               + handle user_topic exactly once, from the oldest on, in the group order\n  \
               + publish to order_topic\n  \
               + read and write its own state\n  \
               + read the clock\n  \
               - nothing else: no files, no network, no environment\n  \
               ? read its settings currency and mail-password (granted, and never asked for)\n\
             \nOperations\n  \
               GET     /orders       The orders so far\n  \
               DELETE  /orders/{id}\n\
             \nLimits\n  \
               memory 64 MiB         memory-total 1 GiB   time 5s        concurrency 64\n  \
               queue 1000            queue-time 1s        instances 64   reuse 10000\n  \
               request 1 MiB         response 4 MiB       event 999 kB   effects 10000\n  \
               effects-size 16 MiB\n\
             \nSettings\n  \
               currency = EUR\n  \
               mail-password = …\n\
             \nInterfaces\n  \
               imports  tidemill:service: publisher, state\n           \
                        wasi:clocks: wall-clock\n           \
                        wasi:filesystem: types\n  \
               exports  tidemill:service: http, events\n\
             \nLicences of 3 packages\n    \
                 2  MIT\n    \
                 1  not said\n"
        );
    }

    #[test]
    fn each_package_is_listed_when_asked_for() {
        let text = show::plain(&render(&order(), true));
        let (_, table) = text.split_once("\nPACKAGE").expect("a table");
        assert_eq!(
            format!("PACKAGE{table}"),
            "PACKAGE  VERSION  LICENCE\n\
             order    1.0.0    not said\n\
             axum     1.0.0    MIT\n\
             http     1.0.0    MIT\n"
        );
    }

    #[test]
    fn nothing_in_a_file_can_steer_the_terminal() {
        let steering = "\u{1b}[2J\u{7}";
        let mut file = order();
        file.description = steering.to_owned();
        file.source = Some(steering.to_owned());
        file.revision = Some(steering.to_owned());
        file.licence = Some(steering.to_owned());
        file.imports = vec![steering.to_owned()];
        file.abilities.refused = vec![steering.to_owned()];
        file.pieces[0].name = steering.to_owned();
        file.packages[1].licence = Some(steering.to_owned());
        if let Some(operations) = &mut file.operations {
            operations[0].path = steering.to_owned();
            operations[0].summary = steering.to_owned();
        }
        for packages in [false, true] {
            assert!(!show::plain(&render(&file, packages)).contains(['\u{1b}', '\u{7}']));
        }
    }

    #[test]
    fn a_section_is_asked_for_by_its_name() {
        assert_eq!(parse_section("tidemill:sbom"), Ok(Section::Sbom));
        let said = parse_section("sbom").expect_err("no such section");
        assert!(said.contains("tidemill:sbom"), "{said}");
    }
}
