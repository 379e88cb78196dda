//! `tidemill build`: from a project to one file, the component with all that is
//! to be known of it.

mod compile;
mod flags;
mod packages;
mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use tidemill_manifest::{Manifest, Section, with_section};

use crate::commands::inspect;
use crate::failure::Failure;
use crate::inspection::Inspection;
use crate::project::{self, Project};
use crate::show::{self, GOOD};
use crate::tools::Tools;

pub(crate) use compile::{cargo, component_of, ensure_target};

const TARGET: &str = "wasm32-wasip2";

const EXAMPLES: &str = "\
Examples:
  tidemill build                      build the service in this directory
  tidemill build handlers/user        build the one in that directory
  tidemill build --profile guest      with a cargo profile of your own
  tidemill build -- --features audit  what follows -- goes to cargo

The component is written to target/tidemill/NAME.wasm (cargo's target
directory, wherever that is). service.toml is inside it, its OpenAPI document,
the commit that it is made of, and the packages in it with their licences: that
one file is the whole service. The same source gives the same file, in whatever
directory it is. `tidemill inspect` shows all of it.";

/// What `tidemill build` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The service's directory: Cargo.toml and service.toml are in it
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// The cargo profile to build with
    #[arg(long, value_name = "NAME", default_value = "release")]
    profile: String,
    /// Print what was built as JSON, as `tidemill inspect` does
    #[arg(long)]
    json: bool,
    /// More arguments for `cargo build`
    #[arg(last = true, value_name = "CARGO ARGS")]
    cargo: Vec<String>,
}

pub(crate) fn run(args: &Args, tools: &Tools) -> Result<ExitCode> {
    let project = Project::open(&args.dir)?;
    let component = make(&project, &args.profile, &args.cargo, tools)?;
    let file = project.component();
    let built = Inspection::of(&component, &file)?;
    if args.json {
        show::print(&format!("{}\n", serde_json::to_string_pretty(&built)?))?;
    } else {
        let deploy = match args.dir.as_path() {
            dir if dir == Path::new(".") => "tidemill deploy".to_owned(),
            dir => format!("tidemill deploy {}", dir.display()),
        };
        show::print(&render(&built, &deploy))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds a project's component and writes its file. The answer is what is in it.
pub(crate) fn make(
    project: &Project,
    profile: &str,
    cargo: &[String],
    tools: &Tools,
) -> Result<Vec<u8>> {
    project.check_cdylib()?;
    compile::ensure_target(&project.dir)?;
    let packages = packages::Packages::ask(&project.dir, cargo)?;
    let compiled = compile::compile(project, profile, cargo, &packages.prefixes())?;
    let component = read(&compiled.artifact)?;
    let mut sections = packages.sections(&project.dir, &compiled.packages)?;
    sections.extend(openapi(&component, &project.manifest, tools)?);
    sections.extend(source::revision(&project.dir).map(|commit| (Section::Revision, commit)));
    sections.push((Section::Manifest, project.text.clone()));
    let component = sections
        .iter()
        .try_fold(component, |component, (section, text)| {
            if text.len() > section.max_size() {
                return Err(too_large(*section, text.len()));
            }
            Ok(with_section(&component, *section, text))
        })?;
    let file = project.component();
    write_whole(&file, &component).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(component)
}

/// What cargo built.
fn read(artifact: &Path) -> Result<Vec<u8>> {
    let component = fs::read(artifact)
        .with_context(|| format!("cannot read what cargo built, {}", artifact.display()))?;
    if let Err(error) = tidemill_manifest::embedded(&component) {
        return Err(Failure::new("cargo built something else than a component")
            .detail(format!("{}: {error}", artifact.display()))
            .into());
    }
    Ok(component)
}

/// What cargo built, with the manifest in it and nothing else: as much as a host
/// needs.
pub(crate) fn with_manifest(project: &Project, artifact: &Path) -> Result<Vec<u8>> {
    Ok(tidemill_manifest::embed(&read(artifact)?, &project.text))
}

/// The document that the component gives of itself.
fn openapi(
    component: &[u8],
    manifest: &Manifest,
    tools: &Tools,
) -> Result<Option<(Section, String)>> {
    let document = (tools.describe)(component, manifest).map_err(|error| {
        Failure::new(format!(
            "{} is compiled, but no host could run it",
            manifest.name
        ))
        .detail(format!("{error:#}"))
    })?;
    Ok(document.map(|document| (Section::OpenApi, document)))
}

fn too_large(section: Section, size: usize) -> Failure {
    Failure::new(format!(
        "what goes into the section {} is too large: {} bytes, of at most {}",
        section.name(),
        size,
        section.max_size()
    ))
}

fn render(built: &Inspection, deploy: &str) -> String {
    let mut fields = vec![
        ("file", project::shown(&built.file)),
        ("digest", built.digest.clone()),
    ];
    if !built.routes.is_empty() {
        fields.push(("answers", built.routes.join(", ")));
    }
    if !built.subscribes.is_empty() {
        fields.push(("consumes", built.subscribes.join(", ")));
    }
    fields.push(("grants", inspect::grants(&built.grants)));
    fields.push(("imports", inspect::packages_of(&built.imports)));
    fields.push(("carries", carries(built)));
    fields.push(("next", deploy.to_owned()));
    format!(
        "{} {}, {}\n{}",
        show::styled(GOOD, "Built"),
        built.name,
        show::size(built.size),
        show::fields(&fields)
    )
}

/// What is in the file beside code and manifest.
fn carries(built: &Inspection) -> String {
    let mut parts = Vec::new();
    if let Some(operations) = &built.operations {
        let count = show::several(operations.len() as u64, "operation");
        parts.push(format!("OpenAPI with {count}"));
    }
    let packages = show::several(built.packages.len() as u64, "package");
    parts.push(format!("the licences of {packages}"));
    parts.push(match &built.revision {
        Some(revision) => inspect::commit(revision),
        None => "no commit: git does not have it".to_owned(),
    });
    parts.join("\n")
}

/// Writes a file so that nobody ever sees half of it.
fn write_whole(file: &Path, content: &[u8]) -> std::io::Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    let unfinished = file.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&unfinished, content)?;
    fs::rename(&unfinished, file).inspect_err(|_| drop(fs::remove_file(&unfinished)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure;
    use crate::inspection::tests::order;

    #[test]
    fn a_component_that_fails_to_describe_itself_fails_the_build() {
        let text = "name = \"shop\"\n[http]\nroutes = [\"/\"]\n";
        let manifest = Manifest::parse(text, "service.toml").expect("it is valid");
        let tools = Tools {
            describe: |_, _| anyhow::bail!("the handler trapped\nclosed on Sundays"),
        };
        let error = openapi(b"", &manifest, &tools).expect_err("it fails");
        assert_eq!(
            show::plain(&failure::render(&error)),
            "error: shop is compiled, but no host could run it\n  the handler trapped\n  \
             closed on Sundays"
        );
    }

    #[test]
    fn a_build_says_what_it_made_and_what_is_next() {
        assert_eq!(
            show::plain(&render(&order(), "tidemill deploy")),
            "Built order, 417 kB\n  \
               file      /elsewhere/target/tidemill/order.wasm\n  \
               digest    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n  \
               answers   /orders\n  \
               consumes  user_topic\n  \
               grants    publish to order_topic; state\n  \
               imports   tidemill: publisher, state\n            \
                         wasi: clocks, filesystem\n  \
               carries   OpenAPI with 2 operations\n            \
                         the licences of 3 packages\n            \
                         commit 3f2a9c01b2d40000000000000000000000000000, and changes that are not committed\n  \
               next      tidemill deploy\n"
        );
    }
}
