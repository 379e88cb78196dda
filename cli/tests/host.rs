//! What the commands say when a host answers, refuses or isn't there: the
//! library against a server of canned answers, through the arguments of a real
//! command line.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread::{self, JoinHandle};

/// Runs this test binary again as `tidemill`, so that standard output, standard
/// error and the exit code are real ones.
fn tidemill(arguments: &[&str]) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command
        .args(["--exact", "as_tidemill", "--nocapture", "--quiet"])
        .env("AS_TIDEMILL", arguments.join("\u{1f}"))
        .env_remove("TIDEMILL_ADMIN")
        .env_remove("TIDEMILL_ADMIN_TOKEN")
        .env("NO_COLOR", "1");
    command.output().expect("it runs")
}

#[derive(Debug, clap::Parser)]
#[command(name = "tidemill")]
struct Tidemill {
    #[command(subcommand)]
    command: tidemill_cli::Command,
}

/// No command here builds anything.
const TOOLS: tidemill_cli::Tools = tidemill_cli::Tools {
    describe: |_, _| Ok(None),
};

#[test]
fn as_tidemill() {
    let Ok(arguments) = std::env::var("AS_TIDEMILL") else {
        return;
    };
    let arguments = ["tidemill"].into_iter().chain(arguments.split('\u{1f}'));
    let tidemill = <Tidemill as clap::Parser>::parse_from(arguments);
    let code = tidemill.command.run(&TOOLS);
    // An exit code can't be read, only returned or compared.
    let success = format!("{code:?}") == format!("{:?}", std::process::ExitCode::SUCCESS);
    std::process::exit(i32::from(!success));
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    // Without what the test harness says before it.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_once("running 1 test\n")
        .map_or(text.clone(), |(_, rest)| rest.to_owned())
}

/// A server that gives one answer to one request, and then what was asked.
fn host(status: &str, kind: &str, body: &str) -> (String, JoinHandle<String>) {
    hosts(&[(status, kind, body)])
}

/// A server that gives these answers, each to one request, and then all that was
/// asked.
fn hosts(answers: &[(&str, &str, &str)]) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let answers: Vec<String> = answers
        .iter()
        .map(|(status, kind, body)| {
            format!(
                "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            )
        })
        .collect();
    let asked = thread::spawn(move || {
        let mut asked = String::new();
        for answer in answers {
            let (stream, _) = listener.accept().expect("a client");
            asked.push_str(&read_request(&stream));
            (&stream).write_all(answer.as_bytes()).expect("an answer");
        }
        asked
    });
    (address, asked)
}

fn read_request(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut text = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        if line == "\r\n" || line.is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        text.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    text.push_str(&String::from_utf8_lossy(&body));
    text
}

#[test]
fn nobody_there_says_how_to_start_a_host() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let output = tidemill(&["services", "--admin", &address]);
    assert_eq!(
        stderr(&output),
        format!(
            "error: no Tidemill host answers at {address}\n\
             hint: start one with `tidemill serve`, or name it with --admin\n"
        )
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_problem_is_shown_in_words() {
    let problem = r#"{"type":"about:blank","title":"No such service","status":404,
        "detail":"Nothing is called \"order\".\nSee what is."}"#;
    let (address, asked) = host("404 Not Found", "application/problem+json", problem);
    let output = tidemill(&["services", "order", "--admin", &address]);
    assert_eq!(
        stderr(&output),
        "error: No such service\n  \
           Nothing is called \"order\".\n  \
           See what is.\n"
    );
    assert_eq!(output.status.code(), Some(1));
    let asked = asked.join().expect("a request");
    assert!(
        asked.starts_with("GET /v1/services/order HTTP/1.1\r\n"),
        "{asked}"
    );
}

#[test]
fn a_host_with_a_token_is_given_it() {
    let (address, asked) = host("200 OK", "application/json", r#"{"services":[]}"#);
    let output = tidemill(&["services", "--admin", &address, "--admin-token", "s3cret"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("No service is deployed yet"));
    let asked = asked.join().expect("a request").to_ascii_lowercase();
    assert!(
        asked.contains("authorization: bearer s3cret\r\n"),
        "{asked}"
    );

    let problem = r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":""}"#;
    let (address, _) = host("401 Unauthorized", "application/problem+json", problem);
    let output = tidemill(&["services", "--admin", &address]);
    assert!(stderr(&output).contains("TIDEMILL_ADMIN_TOKEN"));
}

#[test]
fn another_server_is_not_taken_for_a_host() {
    for (status, body) in [
        ("200 OK", "<html>hello</html>"),
        ("502 Bad Gateway", "<html>bad gateway</html>"),
        ("302 Found", ""),
    ] {
        let (address, _) = host(status, "text/html", body);
        let output = tidemill(&["services", "--admin", &address]);
        let said = stderr(&output);
        assert!(
            said.contains("not as a Tidemill host does"),
            "{status}: {said}"
        );
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn json_is_what_the_host_said() {
    let body = r#"{"services":[],"more":1}"#;
    let (address, _) = host("200 OK", "application/json", body);
    let output = tidemill(&["services", "--json", "--admin", &address]);
    assert_eq!(stdout(&output).trim(), body);
}

#[test]
fn an_outcome_that_is_not_ok_is_an_exit_code() {
    let body = r#"{"revision":"ab","outcome":"reject","error":"no id","duration_us":5,
        "response":null,"published":[],"written":[]}"#;
    let (address, asked) = host("200 OK", "application/json", body);
    let output = tidemill(&[
        "invoke",
        "order",
        "--event",
        "user_topic",
        "--value",
        "{}",
        "--admin",
        &address,
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("reject in 5 µs"), "{output:?}");
    let asked = asked.join().expect("a request");
    let sent = r#"{"event":{"topic":"user_topic","partition":0,"offset":0,"key":null,"value":{"text":"{}"},"headers":[]}}"#;
    assert!(asked.ends_with(sent), "{asked}");
}

const JSON: &str = "application/json";

#[test]
fn rows_of_a_table_are_asked_for_and_shown() {
    let tables = r#"{"tables":[{"table":"counts","rows":2,"more":false}]}"#;
    let (address, asked) = host("200 OK", JSON, tables);
    let output = tidemill(&["state", "order", "--admin", &address]);
    assert!(stdout(&output).contains("TABLE   ROWS\ncounts     2\n"));
    let asked = asked.join().expect("a request");
    assert!(asked.starts_with("GET /v1/services/order/state HTTP/1.1\r\n"));

    let rows = r#"{"rows":[{"shard":1,"key":{"text":"eu/de"},"value":{"text":"{ \"n\": 1 }"}}],
        "more":true}"#;
    let (address, asked) = host("200 OK", JSON, rows);
    let output = tidemill(&[
        "state", "order", "counts", "--prefix", "eu/", "--limit", "1", "--admin", &address,
    ]);
    assert!(
        stdout(&output).contains("    1  eu/de  {\"n\":1}\n"),
        "{output:?}"
    );
    assert!(stderr(&output).contains("There are more rows"));
    let asked = asked.join().expect("a request");
    let line = "GET /v1/services/order/state/counts?limit=1&prefix=eu%2F HTTP/1.1\r\n";
    assert!(asked.starts_with(line), "{asked}");
}

fn replay(done: bool, replayed: u64, trouble: &str) -> String {
    format!(
        r#"{{"generation":2,"changelog":"order.state.2","done":{done},"replayed":{replayed},
        "total":10,"trouble":{trouble}}}"#
    )
}

#[test]
fn a_replay_is_watched_to_its_end() {
    let answers = [(false, 0), (false, 5), (true, 10)].map(|(done, n)| replay(done, n, "null"));
    let answers = answers
        .iter()
        .map(|answer| ("200 OK", JSON, answer.as_str()));
    let (address, asked) = hosts(&answers.collect::<Vec<_>>());
    let output = tidemill(&["replay", "order", "--partial", "--admin", &address]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(
        said.contains("Rebuilt the state of order from 10 events in "),
        "{said}"
    );
    assert!(stderr(&output).contains("Replaying order: 0 %, 0 of 10 events"));
    let asked = asked.join().expect("requests");
    assert!(asked.starts_with("POST /v1/services/order/replay HTTP/1.1\r\n"));
    assert!(asked.contains("{\"partial\":true}GET /v1/services/order/replay HTTP/1.1\r\n"));
}

#[test]
fn a_replay_that_is_stopped_is_a_failure() {
    let (begun, stopped) = (
        replay(false, 0, "null"),
        replay(false, 5, "\"an event keeps failing\""),
    );
    // Trouble may pass, so it is asked a few more times.
    let mut answers = vec![("200 OK", JSON, stopped.as_str()); 50];
    answers[0].2 = &begun;
    let (address, _) = hosts(&answers);
    let output = tidemill(&["replay", "order", "--admin", &address]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("error: the replay of order is stopped, after 5 of 10 events\n  an event keeps failing\n"),
        "{said}"
    );
}

#[test]
fn a_replay_need_not_be_waited_for() {
    let (address, _) = host("202 Accepted", JSON, &replay(false, 0, "null"));
    let output = tidemill(&["replay", "order", "--no-wait", "--admin", &address]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("tidemill replay order --watch"));
}

#[cfg(unix)]
#[test]
fn a_replay_goes_on_when_its_watching_is_interrupted() {
    use std::process::Stdio;

    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let body = replay(false, 1, "null");
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {JSON}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let (told, polled) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            read_request(&stream);
            let _ = (&stream).write_all(answer.as_bytes());
            let _ = told.send(());
        }
    });
    let arguments = ["replay", "order", "--admin", &address].join("\u{1f}");
    let child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "as_tidemill", "--nocapture", "--quiet"])
        .env("AS_TIDEMILL", arguments)
        .env("NO_COLOR", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    // When it asks a second time, it listens for Ctrl-C.
    for _ in 0..2 {
        polled.recv().expect("a poll");
    }
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.expect("it runs").success());
    let output = child.wait_with_output().expect("it ends");
    let said = stderr(&output);
    assert!(said.contains("The replay of order goes on."), "{said}");
    assert_eq!(output.status.code(), Some(130));
}

#[test]
fn a_deploy_sends_the_component_with_its_manifest() {
    let dir = std::env::temp_dir().join(format!("tidemill-cli-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let component = dir.join("order.wasm");
    std::fs::write(&component, b"\0asm\x0d\0\x01\0").expect("a component");
    let component = component.to_str().expect("a path");

    let output = tidemill(&["deploy", component, "--admin", "127.0.0.1:1"]);
    assert!(
        stderr(&output).contains("has no manifest in it"),
        "{}",
        stderr(&output)
    );

    let manifest = "name = \"order\"\n[http]\nroutes = [\"/orders\"]\n";
    std::fs::write(dir.join("service.toml"), manifest).expect("a manifest");
    let deployed = r#"{"name":"order","revision":"abcdef","previous":null,"routes":["/orders"],
        "subscribes":[],"created_topics":[],"compile_us":1000,"url":"http://127.0.0.1:8080"}"#;
    let deployed = deployed.replace('\n', " ");
    let lines =
        format!("{{\"step\":\"compiling\"}}\n\n{{\"step\":\"done\",\"deployed\":{deployed}}}\n");
    let (address, asked) = host("200 OK", "application/x-ndjson", &lines);
    let output = tidemill(&["deploy", component, "--admin", &address]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("curl -i http://127.0.0.1:8080/orders"));
    let asked = asked.join().expect("a request");
    assert!(asked.contains("application/wasm"), "{asked}");
    assert!(asked.ends_with(manifest), "{asked}");

    // It breaks off, and it is refused.
    for (lines, said) in [
        ("{\"step\":\"checking\"}\n", "before the deploy was done"),
        (
            r#"{"step":"refused","problem":{"type":"x","title":"The route is taken","status":409,"detail":"By user."}}"#,
            "The route is taken",
        ),
        ("what?\n", "not as a Tidemill host does"),
    ] {
        let (address, _asked) = host("200 OK", "application/x-ndjson", lines);
        let output = tidemill(&["deploy", component, "--admin", &address]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }

    std::fs::write(dir.join("service.toml"), "name = 7\n").expect("a manifest");
    let output = tidemill(&["deploy", component, "--admin", "127.0.0.1:1"]);
    assert!(
        stderr(&output).contains("name has to be a string"),
        "{}",
        stderr(&output)
    );
    std::fs::remove_dir_all(&dir).expect("removed");
}

fn dead_letters(total: u64) -> String {
    format!(r#"{{"topic":"order.dead-letter","total":{total},"letters":[],"more":false}}"#)
}

#[test]
fn all_dead_letters_are_those_that_there_were() {
    // Those that are sent back fail again, so that there is always one more.
    let (there_are, settled) = (dead_letters(20_000), r#"{"settled":10000,"left":10000}"#);
    let (address, asked) = hosts(&[
        ("200 OK", JSON, &there_are),
        ("200 OK", JSON, settled),
        ("200 OK", JSON, settled),
    ]);
    let output = tidemill(&[
        "dead-letters",
        "order",
        "redrive",
        "--all",
        "--admin",
        &address,
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(said.contains("Sent back 20,000 dead letters"), "{said}");
    let asked = asked.join().expect("requests");
    let line = "POST /v1/services/order/dead-letters/redrive HTTP/1.1\r\n";
    assert_eq!(asked.matches(line).count(), 2, "{asked}");
    assert!(asked.ends_with(r#"{"ids":[],"all":true}"#), "{asked}");
}

#[test]
fn a_drop_that_nobody_agrees_to_is_not_done() {
    let (address, asked) = host("200 OK", JSON, &dead_letters(2));
    let output = tidemill(&[
        "dead-letters",
        "order",
        "drop",
        "--all",
        "--admin",
        &address,
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("pass --yes"),
        "{}",
        stderr(&output)
    );
    assert!(asked.join().expect("a request").starts_with("GET "));
}

#[test]
fn a_reset_of_what_is_not_paused_is_not_begun() {
    let plan = r#"{"group":"order","done":false,"state":false,"partitions":[]}"#;
    let running = r#"{"name":"order","revision":"ab","description":"","routes":[],
        "subscribes":["t"],"status":"running","lag":0,"requests":0,"events":0,"failures":0,
        "deployed_at":0,"size":0,"imports":[],"exports":[],"manifest":"","group":"order",
        "delivery":"exactly-once","partitions":[],"state":null,"commits":null,"trouble":null}"#;
    let (address, asked) = hosts(&[("200 OK", JSON, plan), ("200 OK", JSON, running)]);
    let output = tidemill(&["offsets", "order", "--reset", "-5", "--admin", &address]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("`tidemill pause order` first"), "{said}");
    let asked = asked.join().expect("requests");
    let body = r#"{"to":{"by":-5},"topic":null,"partition":null,"dry_run":true}"#;
    assert!(asked.contains(body), "{asked}");
}

#[test]
fn a_usage_error_is_exit_code_2() {
    for arguments in [
        &["invoke", "order"][..],
        &["deploy", "--admin", "https://a"],
        &["state", "order", "--prefix", "a"],
        &["state", "order", "counts", "--limit", "1001"],
        &["replay", "order", "--watch", "--partial"],
        &["dead-letters", "order", "redrive"],
        &["dead-letters", "order", "drop", "0@1", "--all"],
        &[
            "dead-letters",
            "order",
            "show",
            "0@1",
            "--raw",
            "--as",
            "hex",
        ],
        &["offsets", "order", "--dry-run"],
        &["offsets", "order", "--reset", "yesterday"],
        &["nothing"],
    ] {
        assert_eq!(tidemill(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
