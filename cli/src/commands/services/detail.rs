//! One service in detail, as text.

use super::{lag, some};
use crate::api::{Commits, Delivery, Detail, Partition, Role, Shard, State, Status};
use crate::show::{self, Align, BOLD, DIM, ERROR};

pub(super) fn render(detail: &Detail) -> String {
    let summary = &detail.summary;
    let mut text = format!(
        "{} {}",
        show::styled(BOLD, &show::line(&summary.name, 63)),
        show::status(summary.status)
    );
    if !summary.description.is_empty() {
        text.push_str(&format!("  {}", show::line(&summary.description, 100)));
    }
    text.push('\n');
    if let Some(trouble) = &detail.trouble {
        for line in trouble.lines() {
            text.push_str(&format!("  {ERROR}{}{ERROR:#}\n", show::clean(line)));
        }
    }
    text.push_str(&show::fields(&fields(detail)));
    if !summary.subscribes.is_empty() {
        text.push('\n');
        text.push_str(&partitions(&detail.partitions, summary.status));
    }
    if let Some(state) = &detail.state
        && !state.shards.is_empty()
    {
        text.push('\n');
        text.push_str(&shards(&state.shards));
    }
    text.push_str(&format!("\n{DIM}service.toml{DIM:#}\n"));
    for line in detail.manifest.trim_end().lines() {
        text.push_str(&format!("  {}\n", show::clean(line)));
    }
    text
}

fn fields(detail: &Detail) -> Vec<(&'static str, String)> {
    let summary = &detail.summary;
    let consumes = !summary.subscribes.is_empty();
    let mut fields = vec![
        ("revision", show::clean(&summary.revision)),
        (
            "deployed",
            format!(
                "{}, {}",
                show::time(detail.deployed_at),
                show::size(detail.size)
            ),
        ),
    ];
    if !summary.routes.is_empty() {
        fields.push(("answers", some(&summary.routes)));
    }
    if consumes {
        fields.push(("consumes", some(&summary.subscribes)));
    }
    if let Some(group) = &detail.group {
        fields.push(("group", show::line(group, 249)));
    }
    if consumes {
        let delivery = match detail.delivery {
            Delivery::ExactlyOnce => "exactly-once",
            Delivery::AtLeastOnce => "at-least-once",
        };
        fields.push(("delivery", delivery.to_owned()));
        fields.push(("lag", lag(summary)));
    }
    if let Some(state) = &detail.state {
        fields.push(("state", state_of(state)));
    }
    if let Some(commits) = &detail.commits {
        fields.push(("commits", commits_of(commits)));
    }
    fields.push((
        "since start",
        format!(
            "{} requests, {} events, {} failures",
            show::count(summary.requests),
            show::count(summary.events),
            show::count(summary.failures)
        ),
    ));
    fields.push(("imports", interfaces(&detail.imports)));
    fields.push(("exports", interfaces(&detail.exports)));
    fields
}

fn state_of(state: &State) -> String {
    let place = match &state.changelog {
        Some(changelog) => format!(
            "changelog {}, generation {}",
            show::line(changelog, 249),
            state.generation
        ),
        None => "on this host only, without a changelog".to_owned(),
    };
    if state.readable {
        place
    } else {
        format!("{place}\nbeing restored: requests are answered when it is complete")
    }
}

fn commits_of(commits: &Commits) -> String {
    let mut text = format!(
        "{} on this host, p50 {}, p99 {}",
        show::count(commits.count),
        show::duration(commits.p50_us),
        show::duration(commits.p99_us)
    );
    if commits.aborted > 0 {
        text.push_str(&format!(
            "; {} aborted and made again",
            show::count(commits.aborted)
        ));
    }
    text
}

fn partitions(partitions: &[Partition], status: Status) -> String {
    if partitions.is_empty() && status == Status::Starting {
        return "Waiting for the broker to assign partitions.\n".to_owned();
    }
    if partitions.is_empty() {
        return "This host has no partition of it: the broker assigns them, and other hosts of \
                the group may have all of them.\n"
            .to_owned();
    }
    let head = [
        ("PARTITION", Align::Left),
        ("OWNER", Align::Left),
        ("STATUS", Align::Left),
        ("POSITION", Align::Right),
        ("LAG", Align::Right),
        ("ATTEMPT", Align::Right),
    ];
    let rows: Vec<Vec<String>> = partitions
        .iter()
        .map(|partition| {
            vec![
                place(partition),
                owner(partition),
                show::status(partition.status),
                offset(partition.position),
                or_unknown(partition.lag),
                match partition.attempt {
                    0 => "-".to_owned(),
                    attempt => show::count(attempt.into()),
                },
            ]
        })
        .collect();
    let mut text = show::table(&head, &rows);
    for partition in partitions {
        if let Some(error) = &partition.error {
            let attempt = match partition.attempt {
                0 => String::new(),
                attempt => format!(", attempt {attempt}"),
            };
            text.push_str(&format!(
                "\n{ERROR}{} at offset {}{ERROR:#}{attempt}:\n",
                place(partition),
                offset(partition.position),
            ));
            for line in error.lines() {
                text.push_str(&format!("  {}\n", show::clean(line)));
            }
        }
    }
    text
}

fn shards(shards: &[Shard]) -> String {
    let head = [
        ("SHARD", Align::Right),
        ("ROLE", Align::Left),
        ("POSITIONS", Align::Left),
        ("CHECKPOINT", Align::Right),
        ("BEHIND", Align::Right),
    ];
    let rows: Vec<Vec<String>> = shards
        .iter()
        .map(|shard| {
            let positions: Vec<String> = shard
                .positions
                .iter()
                .map(|(topic, position)| format!("{topic}@{}", offset(*position)))
                .collect();
            vec![
                shard.shard.to_string(),
                role(shard.role),
                some(&positions),
                offset(shard.checkpoint),
                or_unknown(shard.behind),
            ]
        })
        .collect();
    show::table(&head, &rows)
}

fn role(role: Role) -> String {
    match role {
        Role::Owner => show::styled(BOLD, "owner"),
        Role::Following => "following".to_owned(),
        Role::Restoring => show::styled(show::FAIR, "restoring"),
        Role::Replaying => show::styled(show::FAIR, "replaying"),
    }
}

/// The host that has a partition: this one, or the one that committed last.
fn owner(partition: &Partition) -> String {
    match &partition.owner {
        _ if partition.here => show::styled(BOLD, "this host"),
        Some(host) => show::short(host),
        None => "-".to_owned(),
    }
}

fn place(partition: &Partition) -> String {
    format!(
        "{}/{}",
        show::line(&partition.topic, 249),
        partition.partition
    )
}

fn offset(offset: i64) -> String {
    match offset {
        0.. => offset.to_string(),
        _ => "?".to_owned(),
    }
}

fn or_unknown(number: Option<u64>) -> String {
    number.map_or_else(|| "?".to_owned(), show::count)
}

/// Interfaces, a line for each package: `wasi:cli@0.2.6  exit, stdin`.
fn interfaces(names: &[String]) -> String {
    if names.is_empty() {
        return "-".to_owned();
    }
    let mut packages: Vec<(String, Vec<&str>)> = Vec::new();
    for name in names {
        let (path, version) = name.split_once('@').unwrap_or((name, ""));
        let (package, interface) = path.split_once('/').unwrap_or((path, ""));
        let package = if version.is_empty() {
            package.to_owned()
        } else {
            format!("{package}@{version}")
        };
        match packages.iter_mut().find(|(known, _)| *known == package) {
            Some((_, interfaces)) => interfaces.push(interface),
            None => packages.push((package, vec![interface])),
        }
    }
    let lines: Vec<String> = packages
        .iter()
        .map(|(package, interfaces)| format!("{package}  {}", interfaces.join(", ")))
        .collect();
    show::clean(&lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::order;
    use super::*;

    fn detail() -> Detail {
        let partition = |partition, owner: Option<&str>, here| Partition {
            topic: "user_topic".to_owned(),
            partition,
            owner: owner.map(str::to_owned),
            here,
            position: 41,
            lag: Some(0),
            status: Status::Running,
            attempt: 0,
            error: None,
        };
        let host = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
        Detail {
            summary: order(),
            deployed_at: 1_795_501_800_000,
            size: 417_000,
            imports: ["a:b/c@1.0.0", "d:e/f@1.0.0", "a:b/g@1.0.0"]
                .map(str::to_owned)
                .to_vec(),
            exports: Vec::new(),
            manifest: "name = \"order\"\n".to_owned(),
            group: Some("order".to_owned()),
            delivery: Delivery::ExactlyOnce,
            partitions: vec![
                partition(0, Some(host), true),
                Partition {
                    position: 7,
                    lag: None,
                    status: Status::Blocked,
                    attempt: 12,
                    error: Some("no such field\nline two".to_owned()),
                    ..partition(1, None, true)
                },
                partition(2, Some(host), false),
                Partition {
                    position: -1,
                    lag: None,
                    status: Status::Starting,
                    ..partition(3, None, false)
                },
            ],
            state: Some(State {
                changelog: Some("order.state.2".to_owned()),
                generation: 2,
                readable: true,
                shards: vec![
                    Shard {
                        shard: 0,
                        role: Role::Owner,
                        positions: [("user_topic".to_owned(), 41)].into(),
                        checkpoint: 1_234,
                        behind: Some(0),
                    },
                    Shard {
                        shard: 1,
                        role: Role::Restoring,
                        positions: [("a".to_owned(), 1), ("b".to_owned(), 22)].into(),
                        checkpoint: 17,
                        behind: Some(1_000_000),
                    },
                    Shard {
                        shard: 2,
                        role: Role::Following,
                        positions: [].into(),
                        checkpoint: 0,
                        behind: None,
                    },
                ],
            }),
            commits: Some(Commits {
                count: 1_000,
                aborted: 2,
                p50_us: 3_100,
                p99_us: 12_340,
            }),
            trouble: None,
        }
    }

    #[test]
    fn a_detail_shows_partitions_shards_and_errors() {
        assert_eq!(
            show::plain(&render(&detail())),
            format!(
                "order running  Orders, made from users\n  \
                   revision     {}\n  \
                   deployed     2026-11-24 06:30:00 UTC, 417 kB\n  \
                   answers      /orders\n  \
                   consumes     user_topic\n  \
                   group        order\n  \
                   delivery     exactly-once\n  \
                   lag          1,234\n  \
                   state        changelog order.state.2, generation 2\n  \
                   commits      1,000 on this host, p50 3.10 ms, p99 12.3 ms; 2 aborted and made again\n  \
                   since start  10 requests, 1,000 events, 0 failures\n  \
                   imports      a:b@1.0.0  c, g\n  \
                   \u{20}            d:e@1.0.0  f\n  \
                   exports      -\n\
                 \n\
                 PARTITION     OWNER         STATUS    POSITION  LAG  ATTEMPT\n\
                 user_topic/0  this host     running         41    0        -\n\
                 user_topic/1  this host     blocked          7    ?       12\n\
                 user_topic/2  0f1e2d3c4b5a  running         41    0        -\n\
                 user_topic/3  -             starting         ?    ?        -\n\
                 \n\
                 user_topic/1 at offset 7, attempt 12:\n  \
                   no such field\n  \
                   line two\n\
                 \n\
                 SHARD  ROLE       POSITIONS      CHECKPOINT     BEHIND\n    \
                     0  owner      user_topic@41        1234          0\n    \
                     1  restoring  a@1, b@22              17  1,000,000\n    \
                     2  following  -                       0          ?\n\
                 \n\
                 service.toml\n  \
                   name = \"order\"\n",
                order().revision
            )
        );
    }

    #[test]
    fn trouble_comes_first() {
        let trouble = "user_topic has grown to 8 partitions.\nRun `tidemill replay order`.";
        let text = show::plain(&render(&Detail {
            trouble: Some(trouble.to_owned()),
            ..detail()
        }));
        let lines: Vec<&str> = text.lines().skip(1).take(2).collect();
        assert_eq!(
            lines,
            [
                "  user_topic has grown to 8 partitions.",
                "  Run `tidemill replay order`."
            ]
        );
    }

    #[test]
    fn state_says_where_it_is_and_whether_it_can_be_read() {
        let mut state = detail().state.expect("there is one");
        state.changelog = None;
        assert_eq!(state_of(&state), "on this host only, without a changelog");
        state.readable = false;
        assert!(
            state_of(&state)
                .ends_with("\nbeing restored: requests are answered when it is complete")
        );
    }

    #[test]
    fn what_is_not_there_is_not_shown() {
        let mut detail = detail();
        detail.summary.subscribes = Vec::new();
        detail.group = None;
        detail.state = None;
        detail.commits = None;
        detail.partitions = Vec::new();
        let text = show::plain(&render(&detail));
        for word in ["delivery", "state", "commits", "PARTITION", "SHARD", "lag"] {
            assert!(!text.contains(word), "{word} in {text}");
        }
    }
}
