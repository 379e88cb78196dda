//! `tidemill deploy`: puts a component on a running host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use tidemill_manifest::{Manifest, SectionError};
use ureq::http::Method;

use super::{changes, history, hosts};
use crate::api::{Deployed, Step, Sticky};
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
  tidemill deploy order.wasm --dry-run all checks, and nothing more
  tidemill deploy order.wasm --weight 5% --sticky cookie:session
                                       for a share of the requests
  tidemill deploy order.wasm --partitions 0,3
                                       for the events of these partitions

A deploy swaps at once, on every host of the cluster: calls that run finish on the
old revision. What cannot work (an import that is not granted, a route that another
service has) is refused, and the old revision goes on. A revision that fails too
often while it is on trial is taken back ([trial] in the manifest). Calls that it has
to answer before it is live are [[smoke]] in the manifest.";

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
    /// Do all checks, and say what would change
    #[arg(long)]
    dry_run: bool,
    /// As a canary: its share of the requests, in percent (`tidemill promote` gives
    /// it all)
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    weight: Option<f64>,
    /// What makes requests stick to one revision: header:NAME or cookie:NAME
    #[arg(long, value_name = "KIND:NAME", requires = "weight")]
    sticky: Option<Sticky>,
    /// As a canary: the partitions whose events it handles
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    partitions: Vec<u16>,
    /// Don't wait for other hosts than the one that is asked
    #[arg(long)]
    alone: bool,
    /// Print the host's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let (_, component) = component(&args.path, args.manifest.as_deref())?;
    let client = Client::new(&args.connection);
    let deployed = follow(&client, &args.target(), component)?;
    if args.json {
        show::print(&format!("{}\n", serde_json::to_string(&deployed)?))?;
    } else {
        show::print(&render(&deployed))?;
    }
    Ok(hosts::code(match args.alone {
        true => &[],
        false => &deployed.hosts,
    }))
}

/// `5`, `5%` or `0.5%`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim().parse::<f64>();
    number
        .ok()
        .filter(|share| (0.0..=100.0).contains(share))
        .ok_or_else(|| "it is a share in percent, 0% to 100%".to_owned())
}

impl Args {
    fn target(&self) -> String {
        let mut query = Vec::new();
        if self.dry_run {
            query.push("dry-run=true".to_owned());
        }
        if self.alone {
            query.push("alone=true".to_owned());
        }
        query.extend(self.weight.map(|weight| format!("weight={weight}")));
        let sticky = self.sticky.as_ref().map(ToString::to_string);
        query.extend(sticky.map(|sticky| format!("sticky={}", encoded(&sticky))));
        if !self.partitions.is_empty() {
            let numbers = self.partitions.iter().map(ToString::to_string);
            query.push(format!(
                "partitions={}",
                numbers.collect::<Vec<_>>().join(",")
            ));
        }
        match query.is_empty() {
            true => "/v1/services".to_owned(),
            false => format!("/v1/services?{}", query.join("&")),
        }
    }
}

/// Percent-encoded for a query (RFC 3986, section 2.1).
fn encoded(text: &str) -> String {
    let bytes = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b':' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    });
    bytes.collect()
}

/// A component that can be deployed, and its file: the one that a path names, or
/// the one that was built in it, with the manifest that is to be used.
pub(super) fn component(path: &Path, manifest: Option<&Path>) -> Result<(PathBuf, Vec<u8>)> {
    let file = if path.is_dir() {
        built(path)?
    } else {
        path.to_owned()
    };
    let component = with_manifest(read(&file)?, &file, manifest)?;
    Ok((file, component))
}

/// Deploys a component. The answer is what the host did, and as JSON.
pub(crate) fn deploy(
    client: &Client,
    target: &str,
    component: Vec<u8>,
) -> Result<(Deployed, String)> {
    client.call(Method::POST, target, Body::Component(component))
}

/// The same, showing on a terminal how far it is.
fn follow(client: &Client, target: &str, component: Vec<u8>) -> Result<Deployed> {
    let mut last = None;
    let read = client.lines_for(target, component, |line| {
        let step = serde_json::from_str(line).map_err(|_| client.strange("a line"))?;
        match doing(&step) {
            Some(doing) => show::over(&show::styled(DIM, &doing))?,
            None => last = Some(step),
        }
        Ok(true)
    });
    show::over("")?;
    read?;
    match last {
        Some(Step::Done { deployed }) => Ok(*deployed),
        Some(Step::Refused { problem }) => Err(client.refused(problem.status, &problem).into()),
        _ => Err(
            Failure::new("the host ended the connection before the deploy was done")
                .hint("`tidemill history NAME` shows whether it was")
                .into(),
        ),
    }
}

/// What a host does at a step; none if nothing is left to do.
fn doing(step: &Step) -> Option<String> {
    Some(match step {
        Step::Compiling => "compiling …".to_owned(),
        Step::Checking => "checking …".to_owned(),
        Step::Topics { created } => {
            format!("making {} …", show::several(created.len() as u64, "topic"))
        }
        Step::Storing { bytes } => format!("storing {} …", show::size(*bytes as u64)),
        Step::Following { hosts } => {
            let run = hosts.iter().filter(|host| host.runs).count();
            format!(
                "live on {run} of {} …",
                show::several(hosts.len() as u64, "host")
            )
        }
        Step::Done { .. } | Step::Refused { .. } => return None,
    })
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
        return Err(
            Failure::new(format!("{shown} is no component that can be deployed"))
                .detail(error.to_string())
                .into(),
        );
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
        previous if deployed.dry_run => format!(
            "{} {name}, revision {revision}, can be deployed{}: nothing was changed\n",
            show::styled(GOOD, "Checked"),
            match previous {
                Some(previous) => format!(" in place of {}", show::short(previous)),
                None => String::new(),
            }
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
    text.push_str(&changes::show_changes(&deployed.changes));
    text.push_str(&changes::show_warnings(&deployed.warnings));
    text.push_str(&hosts::render(&deployed.hosts));
    text
}

/// Where it is reached, and what it is connected to.
pub(crate) fn facts(deployed: &Deployed) -> String {
    let name = show::line(&deployed.name, 63);
    let url = deployed.url.trim_end_matches('/');
    let mut fields = Vec::new();
    if let Some(canary) = &deployed.canary {
        let partitions = history::partitions(&canary.partitions);
        fields.push((
            "canary",
            format!("{}% of the requests{partitions}", canary.weight),
        ));
    }
    if let Some(until) = deployed.trial_until {
        let left = until.saturating_sub(deployed.number);
        fields.push(("on trial", format!("for {}", show::duration(left * 1000))));
    }
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
    if deployed.smoke > 0 {
        fields.push(("passed", show::several(deployed.smoke as u64, "smoke call")));
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
            number: 1_000,
            dry_run: false,
            canary: None,
            trial_until: None,
            hosts: Vec::new(),
            changes: Vec::new(),
            warnings: Vec::new(),
            smoke: 0,
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
    fn a_look_a_share_and_a_trial_are_told() {
        let first = |deployed: &Deployed| {
            let text = show::plain(&render(deployed));
            text.lines()
                .take(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
                .join("\n")
        };
        let look = Deployed {
            dry_run: true,
            ..deployed()
        };
        assert!(first(&look).starts_with(
            "Checked order, revision 3f2a9c01b2d4, can be deployed in place of 88aa00112233: \
             nothing was changed\n"
        ));
        let tried = Deployed {
            trial_until: Some(61_000),
            ..deployed()
        };
        assert!(
            first(&tried).ends_with("\n  on trial  for 60.0 s"),
            "{}",
            first(&tried)
        );
        let canary = Deployed {
            canary: Some(crate::api::Canary {
                revision: String::new(),
                weight: 2.5,
                sticky: None,
                partitions: vec![3],
            }),
            ..deployed()
        };
        assert!(first(&canary).ends_with("\n  canary    2.5% of the requests and partition 3"));
        assert_eq!(percent("5%"), Ok(5.0));
        assert!(percent("101").is_err() && percent("x").is_err() && percent("NaN").is_err());
        assert_eq!(encoded("cookie:a b"), "cookie:a%20b");
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
