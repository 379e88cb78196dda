//! The admin listener: its API, and what it says of itself.

mod apart;
mod secrets;

use serde_json::json;
use tidemill_tests::{Component, Host, Manifest, unique};

use crate::Pair;

#[test]
fn a_service_is_listed_shown_and_removed() {
    let pair = Pair::start("listed", |manifest| manifest);
    let admin = pair.host.admin();
    let list = admin.get("/v1/services").expect(200).json();
    let names: Vec<&str> = list["services"]
        .as_array()
        .unwrap()
        .iter()
        .map(|service| service["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 2);
    assert!(names.is_sorted(), "{names:?}");

    let _ = pair.host.http().get(&pair.target("ok")).expect(200);
    let detail = pair.host.service(&pair.name);
    assert_eq!(detail["name"], *pair.name);
    assert_eq!(detail["status"], "running");
    assert_eq!(detail["group"], *pair.name);
    assert!(detail["requests"].as_u64() >= Some(1), "{detail}");
    assert!(detail["manifest"].as_str().unwrap().contains(&pair.name));
    assert!(detail["size"].as_u64() > Some(1_000), "{detail}");
    for (list, interface) in [
        ("imports", "tidemill:service/publisher"),
        ("exports", "tidemill:service/http"),
    ] {
        assert!(detail[list].to_string().contains(interface), "{detail}");
    }

    let path = format!("/v1/services/{}", pair.name);
    let removed = admin.send("DELETE", &path, &[], b"").expect(200).json();
    assert_eq!(removed["name"], *pair.name);
    assert_eq!(removed["revision"], detail["revision"]);
    assert_eq!(pair.host.http().get(&pair.target("ok")).status, 404);
    pair.neighbour_serves();

    let said = admin.get(&path).problem(404);
    assert!(said.contains(&pair.name), "{said}");
    admin.send("DELETE", &path, &[], b"").problem(404);
}

#[test]
fn an_invocation_by_hand_shows_its_effects_and_keeps_none() {
    let topic = unique("shown");
    let pair = Pair::start("by-hand", |manifest| manifest.publish(&topic));
    let path = format!("/v1/services/{}/invoke", pair.name);
    let invoke = |what: serde_json::Value| {
        pair.host
            .admin()
            .post_json(&path, what.to_string())
            .expect(200)
            .json()
    };

    let target = pair.target(&format!("publish?topic={topic}&key=k&n=2"));
    let request = json!({"method": "POST", "target": target, "body": {"text": "hello"}});
    let invoked = invoke(json!({ "request": request }));
    assert_eq!(invoked["outcome"], "ok", "{invoked}");
    assert_eq!(invoked["response"]["status"], 200, "{invoked}");
    assert_eq!(
        invoked["response"]["body"]["text"], "published",
        "{invoked}"
    );
    let published = invoked["published"].as_array().unwrap();
    assert_eq!(published.len(), 2);
    assert_eq!(published[0]["topic"], *topic);
    assert_eq!(published[0]["key"]["text"], "k");
    assert_eq!(published[0]["value"]["text"], "hello");

    let event = json!({"topic": pair.name, "value": {"base64": "/w=="}});
    let invoked = invoke(json!({ "event": event }));
    assert_eq!(invoked["outcome"], "ok", "{invoked}");
    let written = invoked["written"].as_array().unwrap();
    let tables: Vec<_> = written.iter().map(|row| &row["table"]).collect();
    assert_eq!(tables, ["counts", "seen"], "in order of table: {invoked}");
    let seen = written[1]["value"]["text"].as_str().unwrap();
    assert!(seen.contains("value=ff"), "{invoked}");

    for (value, outcome) in [("trap", "trap"), ("retry", "retry"), ("reject", "reject")] {
        let event = json!({"topic": pair.name, "value": {"text": value}});
        let invoked = invoke(json!({ "event": event }));
        assert_eq!(invoked["outcome"], outcome, "{invoked}");
        assert!(invoked["error"].is_string(), "{invoked}");
        assert_eq!(invoked["published"].as_array().unwrap().len(), 0);
        assert_eq!(invoked["written"].as_array().unwrap().len(), 0);
    }

    assert!(pair.host.topics().read(&topic).is_empty());
    let rows = pair.host.http().get(&pair.target("rows")).expect(200);
    assert_eq!(rows.text(), "");
}

#[test]
fn what_the_admin_api_does_not_understand_is_a_problem_document() {
    let pair = Pair::start("misused", |manifest| manifest);
    let admin = pair.host.admin();
    admin.get("/v1/nothing").problem(404);
    admin.send("PATCH", "/v1/services", &[], b"").problem(405);
    let path = format!("/v1/services/{}/invoke", pair.name);
    for body in ["", "no JSON", "{}", r#"{"request":{}}"#, r#"{"other":{}}"#] {
        let reply = admin.post_json(&path, body);
        assert!(matches!(reply.status, 400 | 422), "{body}: {reply:?}");
        reply.problem(reply.status);
    }
    let reply = admin.send(
        "POST",
        "/v1/services",
        &[("content-type", "text/plain")],
        b"x",
    );
    assert!(matches!(reply.status, 400 | 415 | 422), "{reply:?}");
    reply.problem(reply.status);
    pair.both_serve();
}

#[test]
fn the_two_listeners_do_not_answer_for_each_other() {
    let pair = Pair::start("apart", |manifest| manifest);
    for target in ["/v1/services", "/metrics", "/healthz", "/readyz"] {
        assert_eq!(pair.host.http().get(target).status, 404, "{target}");
        assert_eq!(pair.host.admin().get(target).status, 200, "{target}");
    }
    assert_eq!(pair.host.admin().get(&pair.target("ok")).status, 404);
}

#[test]
fn metrics_count_requests_by_service_and_outcome() {
    let pair = Pair::start("counted", |manifest| manifest);
    for _ in 0..3 {
        let _ = pair.host.http().get(&pair.target("ok")).expect(200);
    }
    let _ = pair.host.http().get(&pair.target("trap")).expect(500);
    let service = format!("service=\"{}\"", pair.name);
    let count = |labels: &[&str]| {
        let mut all = vec![service.as_str()];
        all.extend(labels);
        pair.host.metric("tidemill_invocations_total", &all)
    };
    assert!((count(&["outcome=\"ok\"", "kind=\"request\""]) - 3.0).abs() < 0.1);
    assert!((count(&["outcome=\"trap\"", "kind=\"request\""]) - 1.0).abs() < 0.1);
    let up = pair.host.metric("tidemill_kafka_up", &[]);
    assert!((up - 1.0).abs() < 0.1);
}

#[test]
fn a_token_is_asked_for_where_one_is_set() {
    let name = unique("token");
    let mut host = Host::builder()
        .deploy([Component::misbehave(&Manifest::new(&name))])
        .arguments(&["--admin-token=secret-of-the-test"])
        .start();
    let with = |token: &str| {
        let value = format!("Bearer {token}");
        host.admin()
            .send("GET", "/v1/services", &[("authorization", &value)], b"")
    };
    let reply = host.admin().get("/v1/services");
    reply.problem(401);
    assert!(reply.header("www-authenticate").starts_with("Bearer"));
    with("secret-of-the-tesu").problem(401);
    assert_eq!(with("secret-of-the-test").status, 200);
    assert!(!host.log().contains("secret-of-the-test"));
    assert!(host.terminate().success());
}
