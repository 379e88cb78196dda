//! `tidemill deploy`: puts a component on a running host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use tidemill_manifest::{Manifest, SectionError};
use ureq::http::Method;

use crate::api::Deployed;
use crate::client::{Body, Client, Connection};
use crate::failure::Failure;
use crate::project::{self, MANIFEST, Project};
use crate::show::{self, DIM, GOOD, WARNING};

const EXAMPLES: &str = "\
Examples:
  tidemill deploy                      the service in this directory, as built last
  tidemill deploy handlers/user        the one in that directory
  tidemill deploy order.wasm           any component with a manifest in it
  tidemill deploy order.wasm --manifest staging.toml
                                       with another manifest

A deploy swaps at once: calls that run finish on the old revision. What cannot
work (an import that is not granted, a route that another service has) is
refused, and the old revision goes on.";

/// What `tidemill deploy` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A component, or the directory of a service that is built
    #[arg(value_name = "PATH", default_value = ".")]
    path: PathBuf,
    /// Use this manifest instead of the one in the component
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Print the host's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let file = if args.path.is_dir() {
        built(&args.path)?
    } else {
        args.path.clone()
    };
    let component = read(&file)?;
    let component = with_manifest(component, &file, args.manifest.as_deref())?;
    let (deployed, json) = deploy(&Client::new(&args.connection), component)?;
    if args.json {
        show::print(&format!("{json}\n"))?;
    } else {
        show::print(&render(&deployed))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Deploys a component. The answer is what the host did, and as JSON.
pub(crate) fn deploy(client: &Client, component: Vec<u8>) -> Result<(Deployed, String)> {
    client.call(Method::POST, "/v1/services", Body::Component(component))
}

/// The component that `tidemill build` made of a project.
fn built(dir: &Path) -> Result<PathBuf> {
    let project = Project::open(dir)?;
    let file = project.component();
    let built = fs::metadata(&file).and_then(|metadata| metadata.modified());
    let Ok(built) = built else {
        let build = match dir {
            dir if dir == Path::new(".") => "tidemill build".to_owned(),
            dir => format!("tidemill build {}", dir.display()),
        };
        return Err(Failure::new(format!(
            "{} is not built yet: there is no {}",
            project.manifest.name,
            project::shown(&file)
        ))
        .hint(format!("run `{build}` first"))
        .into());
    };
    if let Some(source) = project.newer_source(built) {
        anstream::eprintln!(
            "{WARNING}warning:{WARNING:#} {} has changed since the last build: `tidemill build` \
             takes it in",
            project::shown(&source)
        );
    }
    Ok(file)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).map_err(|error| {
        let failure = Failure::new(format!("cannot read {}: {error}", file.display()));
        if error.kind() == std::io::ErrorKind::NotFound {
            failure
                .hint("name a .wasm file or a service's directory")
                .into()
        } else {
            failure.into()
        }
    })
}

/// The component with the manifest that is to be used: the one that is named,
/// or its own, or the one beside it.
fn with_manifest(component: Vec<u8>, file: &Path, named: Option<&Path>) -> Result<Vec<u8>> {
    let shown = file.display().to_string();
    let embedded = tidemill_manifest::embedded(&component);
    if let Err(
        error @ (SectionError::NotWasm
        | SectionError::Module
        | SectionError::Version(_)
        | SectionError::Damaged(_)),
    ) = &embedded
    {
        return Err(Failure::new(format!("{shown} cannot be deployed"))
            .detail(error.to_string())
            .into());
    }
    if let Some(named) = named {
        let (text, _) = project::read_manifest(named)?;
        return Ok(tidemill_manifest::embed(&component, &text));
    }
    if let Some(text) = embedded.with_context(|| format!("{shown} cannot be deployed"))? {
        Manifest::parse(&text, MANIFEST).map_err(|error| {
            Failure::new(format!("the manifest in {shown} is not valid")).detail(error.to_string())
        })?;
        return Ok(component);
    }
    let beside = file.with_file_name(MANIFEST);
    if beside.is_file() {
        let (text, _) = project::read_manifest(&beside)?;
        return Ok(tidemill_manifest::embed(&component, &text));
    }
    Err(Failure::new(format!(
        "{shown} has no manifest in it, and no {MANIFEST} beside it"
    ))
    .hint("`tidemill build` puts one in; or name one with --manifest")
    .into())
}

fn render(deployed: &Deployed) -> String {
    let name = show::line(&deployed.name, 63);
    let revision = show::short(&deployed.revision);
    let mut text = match &deployed.previous {
        Some(previous) if *previous == deployed.revision => format!(
            "{} {name} again: revision {revision} was running already\n",
            show::styled(GOOD, "Deployed")
        ),
        previous => {
            let mut notes = Vec::new();
            if let Some(previous) = previous {
                notes.push(format!("before: {}", show::short(previous)));
            }
            notes.push(match deployed.compile_us {
                Some(micros) => format!("compiled in {}", show::duration(micros)),
                None => "compiled before".to_owned(),
            });
            format!(
                "{} {name}, revision {revision} {}\n",
                show::styled(GOOD, "Deployed"),
                show::styled(DIM, &format!("({})", notes.join("; ")))
            )
        }
    };
    text.push_str(&facts(deployed));
    text
}

/// Where it is reached, and what it is connected to.
pub(crate) fn facts(deployed: &Deployed) -> String {
    let name = show::line(&deployed.name, 63);
    let url = deployed.url.trim_end_matches('/');
    let mut fields = Vec::new();
    if !deployed.routes.is_empty() {
        let routes: Vec<String> = deployed
            .routes
            .iter()
            .map(|route| full_url(url, &show::clean(route)))
            .collect();
        fields.push(("answers", routes.join("\n")));
    }
    let created = |topic: &String| deployed.created_topics.contains(topic);
    let topic = |topic: &String| {
        let mark = if created(topic) { " (new)" } else { "" };
        format!("{}{mark}", show::clean(topic))
    };
    if !deployed.subscribes.is_empty() {
        let topics: Vec<String> = deployed.subscribes.iter().map(topic).collect();
        fields.push(("consumes", topics.join(", ")));
    }
    let others: Vec<String> = deployed
        .created_topics
        .iter()
        .filter(|topic| !deployed.subscribes.contains(topic))
        .map(|topic| show::clean(topic))
        .collect();
    if !others.is_empty() {
        fields.push(("created", format!("topic {}", others.join(", "))));
    }
    fields.push((
        "try",
        match deployed.routes.first() {
            Some(route) => curl(url, &show::clean(route)),
            None => format!("tidemill services {name}"),
        },
    ));
    if !deployed.routes.is_empty() {
        fields.push(("docs", format!("{url}/docs")));
    }
    show::fields(&fields)
}

/// A route as a URL; one with a host name of its own keeps it.
fn full_url(url: &str, route: &str) -> String {
    if route.starts_with('/') {
        return format!("{url}{route}");
    }
    let (scheme, authority) = url.split_once("://").unwrap_or(("http", url));
    let (host, path) = route.split_at(route.find('/').unwrap_or(route.len()));
    let port = authority
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or_else(String::new, |(_, port)| format!(":{port}"));
    format!("{scheme}://{host}{port}{path}")
}

fn curl(url: &str, route: &str) -> String {
    match route.split_at(route.find('/').unwrap_or(route.len())) {
        ("", path) => format!("curl -i {url}{path}"),
        (host, path) => format!("curl -i -H 'Host: {host}' {url}{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployed() -> Deployed {
        Deployed {
            name: "order".to_owned(),
            revision: "3f2a9c01b2d4".repeat(6),
            previous: Some("88aa00112233".repeat(6)),
            routes: vec!["/orders".to_owned(), "api.example.com/v1".to_owned()],
            subscribes: vec!["user_topic".to_owned(), "cart_topic".to_owned()],
            created_topics: vec!["cart_topic".to_owned(), "order_topic".to_owned()],
            compile_us: Some(440_000),
            url: "http://127.0.0.1:8080".to_owned(),
        }
    }

    #[test]
    fn a_deploy_says_what_happened() {
        assert_eq!(
            show::plain(&render(&deployed())),
            "Deployed order, revision 3f2a9c01b2d4 (before: 88aa00112233; compiled in 440 ms)\n  \
               answers   http://127.0.0.1:8080/orders\n  \
               \u{20}         http://api.example.com:8080/v1\n  \
               consumes  user_topic, cart_topic (new)\n  \
               created   topic order_topic\n  \
               try       curl -i http://127.0.0.1:8080/orders\n  \
               docs      http://127.0.0.1:8080/docs\n"
        );
    }

    #[test]
    fn a_first_deploy_of_a_consumer() {
        let deployed = Deployed {
            previous: None,
            routes: Vec::new(),
            subscribes: vec!["user_topic".to_owned()],
            created_topics: Vec::new(),
            compile_us: None,
            ..deployed()
        };
        assert_eq!(
            show::plain(&render(&deployed)),
            "Deployed order, revision 3f2a9c01b2d4 (compiled before)\n  \
               consumes  user_topic\n  \
               try       tidemill services order\n"
        );
    }

    #[test]
    fn a_deploy_of_the_same_says_so() {
        let same = Deployed {
            previous: Some(deployed().revision),
            ..deployed()
        };
        let text = show::plain(&render(&same));
        let first = text.lines().next().unwrap_or_default();
        assert_eq!(
            first,
            "Deployed order again: revision 3f2a9c01b2d4 was running already"
        );
    }

    #[test]
    fn a_route_with_a_host_name_is_asked_for_by_it() {
        assert_eq!(
            curl("http://127.0.0.1:8080", "api.example.com/v1"),
            "curl -i -H 'Host: api.example.com' http://127.0.0.1:8080/v1"
        );
    }

    #[test]
    fn the_manifest_is_the_named_one_or_the_components_own() {
        let plain = b"\0asm\x0d\0\x01\0".to_vec();
        let file = Path::new("/nowhere/a.wasm");
        let text = "name = \"a\"\n[http]\nroutes = [\"/\"]\n";
        let own = tidemill_manifest::embed(&plain, text);
        assert_eq!(with_manifest(own.clone(), file, None).ok(), Some(own));
        for bad in [
            plain.clone(),
            b"#!/bin/sh".to_vec(),
            tidemill_manifest::embed(&plain, "nam = 1"),
        ] {
            assert!(with_manifest(bad, file, None).is_err());
        }
    }
}
