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

#[test]
fn as_tidemill() {
    let Ok(arguments) = std::env::var("AS_TIDEMILL") else {
        return;
    };
    let arguments = ["tidemill"].into_iter().chain(arguments.split('\u{1f}'));
    let tidemill = <Tidemill as clap::Parser>::parse_from(arguments);
    let code = tidemill.command.run();
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
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let asked = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        let asked = read_request(&stream);
        (&stream).write_all(answer.as_bytes()).expect("an answer");
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
    let (address, asked) = host("201 Created", "application/json", deployed);
    let output = tidemill(&["deploy", component, "--admin", &address]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("curl -i http://127.0.0.1:8080/orders"));
    let asked = asked.join().expect("a request");
    assert!(asked.contains("application/wasm"), "{asked}");
    assert!(asked.ends_with(manifest), "{asked}");

    std::fs::write(dir.join("service.toml"), "name = 7\n").expect("a manifest");
    let output = tidemill(&["deploy", component, "--admin", "127.0.0.1:1"]);
    assert!(
        stderr(&output).contains("name has to be a string"),
        "{}",
        stderr(&output)
    );
    std::fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn a_usage_error_is_exit_code_2() {
    for arguments in [
        &["invoke", "order"][..],
        &["deploy", "--admin", "https://a"],
        &["nothing"],
    ] {
        assert_eq!(tidemill(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
