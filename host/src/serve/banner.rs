//! What `serve` says on a terminal: where everything is, and what to try first.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};

use super::Addresses;
use super::config::Config;
use crate::host::{Host, routes, subscribes};
use crate::kafka::Brokers;

/// A deployed service, as far as the banner shows it.
struct Line {
    name: String,
    revision: String,
    routes: Vec<String>,
    subscribes: Vec<String>,
}

pub(super) fn print(config: &Config, addresses: &Addresses, host: &Host) {
    let services = host.services();
    let lines = services.iter().map(|service| {
        let revision = service.current();
        Line {
            name: service.name().to_owned(),
            revision: revision.short().to_owned(),
            routes: routes(&revision.manifest),
            subscribes: subscribes(&revision.manifest),
        }
    });
    let lines: Vec<Line> = lines.collect();
    let terminal = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let text = render(config, addresses, &lines, Style(terminal));
    // A closed standard output is no reason to end.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Why the host does not start.
pub(super) fn error(text: &str) -> String {
    let terminal = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    format!("{} {text}", Style(terminal).paint("1;31", "error:"))
}

#[derive(Clone, Copy)]
struct Style(bool);

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

fn render(config: &Config, addresses: &Addresses, services: &[Line], style: Style) -> String {
    let mut text = String::new();
    let title = style.paint("1;36", "Tidemill");
    let _ = writeln!(text, "\n  {title} {}\n", env!("CARGO_PKG_VERSION"));
    let mut row = |name: &str, value: &str, note: &str| {
        let name = style.paint("2", &format!("{name:<10}"));
        let note = style.paint("2", note);
        let _ = writeln!(text, "  {name}{value}  {note}");
    };
    let url = format!("http://{}", addresses.http);
    row("services", &url, "");
    row("docs", &format!("{url}/docs"), "");
    row("admin", &format!("http://{}", addresses.admin), "");
    let (broker, note) = match &config.kafka {
        Brokers::Embedded => (
            format!("embedded, at {}", addresses.kafka),
            "in memory, gone with this process; at-least-once",
        ),
        Brokers::Servers(servers) => (
            servers.clone(),
            "exactly-once, unless a manifest says otherwise",
        ),
    };
    row("kafka", &broker, note);
    row("data", &config.data_dir.display().to_string(), "");
    let _ = writeln!(text);
    let width = services.iter().map(|service| service.name.len() + 2).max();
    let width = width.unwrap_or_default().max(10);
    for service in services {
        let revision = style.paint("2", &service.revision);
        let name = style.paint("1", &format!("{:<width$}", service.name));
        let mut what = service.routes.join(" ");
        if !service.subscribes.is_empty() {
            let arrow = if what.is_empty() { "" } else { "  " };
            let _ = write!(what, "{arrow}← {}", service.subscribes.join(" "));
        }
        let _ = writeln!(text, "  {name}{revision}  {what}");
    }
    if services.is_empty() {
        let _ = writeln!(
            text,
            "  Nothing is deployed yet. Start a service with:\n\n    tidemill new shop && cd shop && tidemill build && tidemill deploy"
        );
    }
    let names = |name: &str| services.iter().any(|service| service.name == name);
    if names("user") && names("order") {
        let _ = writeln!(
            text,
            "\n  Try\n    curl {url}/users -H 'content-type: application/json' -d '{{\"name\": \"Ada\"}}'\n    curl {url}/orders"
        );
    }
    let _ = writeln!(text, "\n  {}\n", style.paint("2", "Ctrl-C stops it."));
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::kafka::Topics;

    fn shown(services: &[&str]) -> String {
        let config = Config {
            http: String::new(),
            admin: String::new(),
            admin_token: Some("s3cret".to_owned()),
            connections: 20_000,
            client_timeout: Duration::from_secs(30),
            kafka: Brokers::Embedded,
            properties: BTreeMap::new(),
            fleet: "tidemill".to_owned(),
            data_dir: "data".into(),
            topics: Topics {
                partitions: 4,
                replication: -1,
            },
            memory: 0,
            compile_time: Duration::ZERO,
            idle_time: Duration::ZERO,
            deploy: Vec::new(),
            log_format: None,
            log: String::new(),
            grace: Duration::ZERO,
            until_stdin_ends: false,
        };
        let addresses = Addresses {
            http: "127.0.0.1:8080".to_owned(),
            admin: "127.0.0.1:8081".to_owned(),
            kafka: "127.0.0.1:1".to_owned(),
        };
        let services: Vec<Line> = services
            .iter()
            .map(|name| Line {
                name: (*name).to_owned(),
                revision: "0123456789ab".to_owned(),
                routes: vec![format!("/{name}s")],
                subscribes: Vec::new(),
            })
            .collect();
        render(&config, &addresses, &services, Style(false))
    }

    #[test]
    fn it_says_where_everything_is_and_what_to_try() {
        let text = shown(&["order", "user"]);
        for part in [
            "http://127.0.0.1:8080/docs",
            "http://127.0.0.1:8081",
            "in memory",
            "/users",
            "curl http://127.0.0.1:8080/users",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("s3cret"));
    }

    #[test]
    fn an_empty_host_says_how_to_begin() {
        assert!(shown(&[]).contains("tidemill new"));
    }
}
