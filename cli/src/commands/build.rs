//! `tidemill build`: from a project to one file, the component with its
//! manifest in it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tidemill_manifest::Manifest;

use crate::failure::Failure;
use crate::project::{self, Project, program};
use crate::show::{self, GOOD};

const TARGET: &str = "wasm32-wasip2";

const EXAMPLES: &str = "\
Examples:
  tidemill build                      build the service in this directory
  tidemill build handlers/user        build the one in that directory
  tidemill build --profile guest      with a cargo profile of your own
  tidemill build -- --features audit  what follows -- goes to cargo

The component is written to target/tidemill/NAME.wasm (cargo's target
directory, wherever that is), with service.toml inside it: that one file is
the whole service.";

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
    /// Print what was built as JSON
    #[arg(long)]
    json: bool,
    /// More arguments for `cargo build`
    #[arg(last = true, value_name = "CARGO ARGS")]
    cargo: Vec<String>,
}

/// What a build made.
#[derive(Debug, Serialize)]
struct Built {
    name: String,
    file: PathBuf,
    size: u64,
    sha256: String,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let project = Project::open(&args.dir)?;
    project.check_cdylib()?;
    ensure_target(&project.dir)?;
    let artifact = cargo_build(&project, &args.profile, &args.cargo)?;
    let component = component(&project, &artifact)?;
    let file = project.component();
    write_whole(&file, &component).with_context(|| format!("cannot write {}", file.display()))?;
    let built = Built {
        name: project.manifest.name.clone(),
        size: component.len() as u64,
        sha256: hex(&Sha256::digest(&component)),
        file,
    };
    if args.json {
        show::print(&format!("{}\n", serde_json::to_string_pretty(&built)?))?;
    } else {
        let deploy = match args.dir.as_path() {
            dir if dir == Path::new(".") => "tidemill deploy".to_owned(),
            dir => format!("tidemill deploy {}", dir.display()),
        };
        show::print(&render(&built, &project.manifest, &deploy))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The component of a project: what cargo built, with the manifest in it.
pub(crate) fn component(project: &Project, artifact: &Path) -> Result<Vec<u8>> {
    let component = fs::read(artifact)
        .with_context(|| format!("cannot read what cargo built, {}", artifact.display()))?;
    if let Err(error) = tidemill_manifest::embedded(&component) {
        return Err(Failure::new("cargo built something else than a component")
            .detail(format!("{}: {error}", artifact.display()))
            .into());
    }
    Ok(tidemill_manifest::embed(&component, &project.text))
}

fn render(built: &Built, manifest: &Manifest, deploy: &str) -> String {
    let mut fields = vec![("file", project::shown(&built.file))];
    if let Some(http) = &manifest.http {
        let routes: Vec<String> = http.routes.iter().map(ToString::to_string).collect();
        fields.push(("answers", routes.join(", ")));
    }
    if !manifest.subscribe.is_empty() {
        let topics: Vec<&str> = manifest
            .subscribe
            .iter()
            .map(|subscription| subscription.topic.as_str())
            .collect();
        fields.push(("consumes", topics.join(", ")));
    }
    if !manifest.grants.publish.is_empty() {
        fields.push(("publishes", manifest.grants.publish.join(", ")));
    }
    fields.push(("next", deploy.to_owned()));
    format!(
        "{} {}, {}, sha256 {}\n{}",
        show::styled(GOOD, "Built"),
        built.name,
        show::size(built.size),
        show::short(&built.sha256),
        show::fields(&fields)
    )
}

/// Makes sure that Rust's standard library for the target is there.
pub(crate) fn ensure_target(dir: &Path) -> Result<()> {
    let output = program("rustc", dir)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .map_err(|error| project::not_started("rustc", &error))?;
    let libdir = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && Path::new(libdir.trim()).is_dir() {
        return Ok(());
    }
    anstream::eprintln!("Adding the target {TARGET}: rustup target add {TARGET}");
    let added = program("rustup", dir)
        .args(["target", "add", TARGET])
        .stdout(Stdio::null())
        .status();
    match added {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Failure::new(format!(
            "Rust's target {TARGET} is not installed, and adding it failed"
        ))
        .hint(format!(
            "run `rustup target add {TARGET}`; without rustup, take the target from where your Rust comes from"
        ))
        .into()),
    }
}

/// One line of `cargo build --message-format=json`.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    target: Option<MessageTarget>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct MessageTarget {
    crate_types: Vec<String>,
}

/// Cargo building a project, without what it is to say and how.
pub(crate) fn cargo(project: &Project, profile: &str) -> Command {
    let mut cargo = program("cargo", &project.dir);
    cargo
        .args(["build", "--lib", "--target", TARGET, "--profile", profile])
        .stdout(Stdio::piped());
    cargo
}

/// Runs cargo, with its progress and its errors on standard error. The answer
/// is the component's file.
fn cargo_build(project: &Project, profile: &str, more: &[String]) -> Result<PathBuf> {
    let mut cargo = cargo(project, profile)
        .arg("--message-format=json-render-diagnostics")
        .args(more)
        .spawn()
        .map_err(|error| project::not_started("cargo", &error))?;
    let mut artifact = None;
    if let Some(output) = cargo.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line.context("cannot read what cargo says")?;
            artifact = component_of(&line, &project.dir).or(artifact);
        }
    }
    let status = cargo.wait().context("cannot wait for cargo")?;
    if !status.success() {
        return Err(Failure::new("the service does not compile: cargo's errors are above").into());
    }
    artifact.ok_or_else(|| Failure::new("cargo built no component for this package").into())
}

/// The component that a message of cargo's names, if it is of this package.
pub(crate) fn component_of(line: &str, dir: &Path) -> Option<PathBuf> {
    let message: Message = serde_json::from_str(line).ok()?;
    let ours = message.reason == "compiler-artifact"
        && message.manifest_path == dir.join("Cargo.toml")
        && message
            .target?
            .crate_types
            .iter()
            .any(|kind| kind == "cdylib");
    message
        .filenames
        .into_iter()
        .find(|file| ours && file.extension().is_some_and(|ending| ending == "wasm"))
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

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_is_the_packages_own_cdylib() {
        let message = |path: &str, kind: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"{path}/Cargo.toml",
                "target":{{"crate_types":["{kind}","rlib"]}},
                "filenames":["/t/libuser.rlib","/t/user.wasm"]}}"#
            )
        };
        let dir = Path::new("/w/user");
        assert_eq!(
            component_of(&message("/w/user", "cdylib"), dir),
            Some(PathBuf::from("/t/user.wasm"))
        );
        assert_eq!(component_of(&message("/w/other", "cdylib"), dir), None);
        assert_eq!(component_of(&message("/w/user", "rlib"), dir), None);
        let finished = r#"{"reason":"build-finished","success":true}"#;
        assert_eq!(component_of(finished, dir), None);
        assert_eq!(component_of("not JSON", dir), None);
    }

    #[test]
    fn a_build_says_what_it_made_and_what_is_next() {
        let text = "name = \"order\"\n[http]\nroutes = [\"/orders\"]\n\
                    [[subscribe]]\ntopic = \"user_topic\"\n[grants]\npublish = [\"a\", \"b\"]\n";
        let manifest = Manifest::parse(text, "service.toml").expect("it is valid");
        let built = Built {
            name: "order".to_owned(),
            file: PathBuf::from("/elsewhere/target/tidemill/order.wasm"),
            size: 417_321,
            sha256: "0123456789abcdef".repeat(4),
        };
        assert_eq!(
            show::plain(&render(&built, &manifest, "tidemill deploy")),
            "Built order, 417 kB, sha256 0123456789ab\n  \
               file       /elsewhere/target/tidemill/order.wasm\n  \
               answers    /orders\n  \
               consumes   user_topic\n  \
               publishes  a, b\n  \
               next       tidemill deploy\n"
        );
    }

    #[test]
    fn digests_are_hexadecimal() {
        assert_eq!(hex(&[0, 0xab, 0x1f]), "00ab1f");
    }
}
