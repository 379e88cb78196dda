//! What a deploy tells and tries before a revision is live: changes, warnings,
//! smoke calls.

use serde_json::{Value, json};
use tidemill_tests::{Component, Host, Manifest, eventually, unique};

/// The misbehaving component with more in its manifest.
fn component(manifest: &Manifest, more: &str) -> Component {
    Component::misbehave(manifest).with(&format!("{}\n{more}", manifest.toml()))
}

fn revision(host: &Host, name: &str) -> Value {
    host.service(name)["revision"].clone()
}

/// Holds that a deploy is refused by a smoke call, and gives the reason.
fn fails(host: &Host, component: &Component) -> String {
    let reply = host.try_deploy(component);
    assert_eq!(reply.status, 422, "{reply:?}");
    assert_eq!(reply.json()["type"], "urn:tidemill:problem:smoke");
    reply.problem(422)
}

#[test]
fn a_revision_that_does_not_pass_is_refused_and_the_running_one_goes_on() {
    let name = unique("smoked");
    let manifest = Manifest::new(&name);
    let host = Host::embedded([Component::misbehave(&manifest)]);
    let before = revision(&host, &name);
    let manifest = manifest.limit("time", "\"200ms\"");
    for (smoke, told) in [
        (
            format!(
                "[[smoke]]\nrequest = \"GET /{name}/ok\"\n[[smoke]]\nrequest = \"GET /{name}/status?code=404\"\n"
            ),
            vec![
                "smoke call 2 of 2",
                "a status of 200 to 299",
                "404 Not Found",
                "as asked",
            ],
        ),
        (
            format!("[[smoke]]\nrequest = \"GET /{name}/ok\"\ncontains = \"all right\"\n"),
            vec!["all right", "200 OK", "the body: ok"],
        ),
        (
            format!("[[smoke]]\nrequest = \"GET /{name}/trap\"\n"),
            vec!["a handler that succeeds", "trap"],
        ),
        (
            format!("[[smoke]]\nrequest = \"GET /{name}/loop\"\n"),
            vec!["a handler that succeeds", "timeout"],
        ),
        (
            format!("[[smoke]]\nevent = {{ topic = {name:?}, value = \"reject\" }}\n"),
            vec!["a handler that succeeds", "asked to be rejected"],
        ),
        (
            format!("[[smoke]]\nevent = {{ topic = {name:?}, value = \"ok\" }}\nrows = 5\n"),
            vec!["5 rows to be written", "2 rows"],
        ),
    ] {
        let said = fails(&host, &component(&manifest, &smoke));
        for word in told {
            assert!(said.contains(word), "{word:?} is not in {said:?}");
        }
        assert_eq!(revision(&host, &name), before);
        assert_eq!(host.http().get(&format!("/{name}/ok")).status, 200);
    }
}

#[test]
fn a_first_revision_that_does_not_pass_is_not_there() {
    let name = unique("smoked");
    let host = Host::embedded([]);
    let smoke = format!("[[smoke]]\nrequest = \"GET /{name}/status?code=500\"\n");
    let _ = fails(&host, &component(&Manifest::new(&name), &smoke));
    let reply = host.admin().get(&format!("/v1/services/{name}"));
    assert_eq!(reply.status, 404, "{reply:?}");
    assert_eq!(host.http().get(&format!("/{name}/ok")).status, 404);
}

#[test]
fn smoke_calls_publish_nothing_write_nothing_and_are_not_counted() {
    let (name, out) = (unique("smoked"), unique("out"));
    let host = Host::embedded([]);
    let smoke = format!(
        "[[smoke]]\nrequest = \"POST /{name}/publish?topic={out}&n=2\"\nbody = \"x\"\n\
         publishes = 2\nto = [{out:?}]\n\
         [[smoke]]\nevent = {{ topic = {name:?}, key = \"a\", value = \"publish {out}\" }}\n\
         publishes = 1\nto = [{out:?}]\nrows = 2\n"
    );
    let manifest = Manifest::new(&name).publish(&out);
    let deployed = host.deploy(&component(&manifest, &smoke));
    assert_eq!(deployed["smoke"], 2, "{deployed}");

    let label = format!("service=\"{name}\"");
    assert_eq!(host.metric("tidemill_invocations_total", &[&label]), 0.0);
    let state = host.admin().get(&format!("/v1/services/{name}/state"));
    assert_eq!(state.expect(200).json()["tables"], json!([]));
    // Behind what would have been published.
    let last = host.topics().write(&out, 0, None, Some(b"last"), &[]);
    assert_eq!((last, host.topics().read(&out).len()), (0, 1));
}

#[test]
fn smoke_calls_read_the_state_that_the_service_has() {
    let name = unique("smoked");
    let manifest = Manifest::new(&name);
    let host = Host::embedded([Component::misbehave(&manifest)]);
    host.topics().write(&name, 0, None, Some(b"first"), &[]);
    let rows = || host.http().get(&format!("/{name}/rows"));
    eventually("the event is in the state", || match rows() {
        reply if reply.text().contains("value=\"first\"") => Ok(()),
        other => Err(other),
    });
    let has = |value: &str| {
        format!("[[smoke]]\nrequest = \"GET /{name}/rows\"\ncontains = 'value=\"{value}\"'\n")
    };
    let deployed = host.deploy(&component(&manifest, &has("first")));
    assert_eq!(deployed["smoke"], 1, "{deployed}");
    let said = fails(&host, &component(&manifest, &has("second")));
    assert!(said.contains("second") && said.contains("first"), "{said}");
}

#[test]
fn a_dry_run_says_what_a_deploy_would_and_changes_nothing() {
    let name = unique("dry");
    let manifest = Manifest::new(&name);
    let host = Host::embedded([Component::misbehave(&manifest)]);
    let before = revision(&host, &name);
    let dry = |component: &Component| {
        let headers = [("content-type", "application/wasm")];
        host.admin()
            .send("POST", "/v1/services?dry-run=true", &headers, &component.0)
    };
    let smoke = |mode: &str| format!("[[smoke]]\nrequest = \"GET /{name}/{mode}\"\n");
    let next = component(&manifest.limit("time", "\"1s\""), &smoke("ok"));
    let told = dry(&next).expect(200).json();
    assert_eq!(told["dry_run"], true, "{told}");
    assert_eq!(revision(&host, &name), before);

    let deployed = host.deploy(&next);
    assert_eq!(deployed["dry_run"], false, "{deployed}");
    for field in [
        "name", "revision", "previous", "changes", "warnings", "smoke",
    ] {
        assert_eq!(told[field], deployed[field], "{field}");
    }
    let refused = dry(&component(&Manifest::new(&name), &smoke("trap")));
    assert_eq!(refused.status, 422, "{refused:?}");
}

#[test]
fn a_deploy_says_what_changes() {
    let name = unique("changed");
    let manifest = Manifest::new(&name)
        .setting("colour", "red")
        .setting("api-key", "hush-1");
    let host = Host::embedded([]);
    let deployed = host.deploy(&Component::misbehave(&manifest));
    assert_eq!(deployed["changes"], json!([]), "there was nothing before");

    let document = r#"{"openapi":"3.1.0","info":{"title":"x","version":"1"},"paths":{"/a":{"get":{"summary":"All"}}}}"#;
    let described = manifest.clone().setting("openapi", document);
    let mut next = described
        .setting("api-key", "hush-2")
        .limit("time", "\"1s\"");
    next.route = format!("/{name}-2");
    let changes = host.deploy(&Component::misbehave(&next))["changes"].clone();
    let change = |what: &str, of: &str| {
        let mut all = changes.as_array().unwrap().iter();
        all.find(|change| change["what"] == what && change["name"] == of)
            .unwrap_or_else(|| panic!("no {what} {of} in {changes}"))
            .clone()
    };
    let route = change("route", &format!("/{name}"));
    assert_eq!(
        (&route["after"], &route["breaking"]),
        (&Value::Null, &json!(true))
    );
    assert_eq!(change("route", &next.route)["breaking"], false);
    assert_eq!(change("operation", "GET /a")["after"], "All");
    let limit = change("limit", "time");
    assert_eq!(
        (&limit["before"], &limit["after"]),
        (&json!("5s"), &json!("1s"))
    );
    let _ = change("setting", "api-key");
    assert!(!changes.to_string().contains("hush"), "{changes}");
    assert!(!changes.to_string().contains("colour"), "{changes}");

    // The way back takes the operation away.
    let changes = host.deploy(&Component::misbehave(&manifest))["changes"].clone();
    let mut all = changes.as_array().unwrap().iter();
    let gone = all.find(|change| change["what"] == "operation").unwrap();
    assert_eq!(gone["breaking"], true, "{changes}");
}

#[test]
fn a_deploy_warns_of_circles_and_of_topics_without_writer_or_reader() {
    let host = Host::embedded([]);
    let [one, two] = ["one", "two"].map(unique);
    let [there, back, aside] = ["there", "back", "aside"].map(unique);
    let warnings = |component: &Component| -> Vec<(String, String)> {
        let deployed = host.deploy(component);
        let warnings = deployed["warnings"].as_array().unwrap().iter();
        let text = |warning: &Value, field: &str| warning[field].as_str().unwrap().to_owned();
        warnings
            .map(|warning| (text(warning, "kind"), text(warning, "message")))
            .collect()
    };
    let first = Manifest::new(&one).consumes(&[&back]).publish(&there);
    let told = warnings(&Component::misbehave(&first));
    let kinds: Vec<&str> = told.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["unwritten", "unread"], "{told:?}");
    assert!(
        told[0].1.contains(&back) && told[1].1.contains(&there),
        "{told:?}"
    );

    let second = Manifest::new(&two)
        .consumes(&[&there])
        .publish(&back)
        .publish(&aside);
    let told = warnings(&Component::misbehave(&second));
    let kinds: Vec<&str> = told.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["cycle", "unread"], "{told:?}");
    let circle = format!("{two} → {back} → {one} → {there} → {two}");
    assert!(told[0].1.contains(&circle), "{told:?}");
    assert!(told[1].1.contains(&aside), "{told:?}");
}

#[test]
fn the_command_line_shows_changes_warnings_and_what_did_not_pass() {
    let (name, out) = (unique("shown"), unique("nobody-reads"));
    let manifest = Manifest::new(&name);
    let host = Host::embedded([Component::misbehave(&manifest)]);
    let file = host.folder().path().join("next.wasm");
    let next = manifest.publish(&out).limit("time", "\"1s\"");
    let smoke = |mode: &str| format!("[[smoke]]\nrequest = \"GET /{name}/{mode}\"\n");

    std::fs::write(&file, &component(&next, &smoke("trap")).0).unwrap();
    let (worked, output, error) = host.cli(&["deploy", "next.wasm"]);
    assert!(
        !worked && error.contains("smoke call 1 of 1"),
        "{output}{error}"
    );

    std::fs::write(&file, &component(&next, &smoke("ok")).0).unwrap();
    let (worked, output, error) = host.cli(&["deploy", "next.wasm"]);
    let all = format!("{output}{error}");
    assert!(worked, "{all}");
    let line = |words: [&str; 3]| {
        let mut lines = all.lines();
        lines.any(|line| words.iter().all(|word| line.contains(word)))
    };
    assert!(line(["~ limit", "time", "5s → 1s"]), "{all}");
    assert!(line(["+ publish", &out, ""]), "{all}");
    assert!(
        line(["warning:", &out, "no deployed service subscribes"]),
        "{all}"
    );
}
