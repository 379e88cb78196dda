//! What is deployed and is no service: each is refused with what is wrong, and
//! what runs goes on.

use tidemill_tests::{Component, Host, Manifest, unique};

use crate::Pair;

/// Holds that a deploy is refused with all of `words` in the reason, and that
/// nothing else has changed.
fn refused(pair: &Pair, component: &Component, words: &[&str]) {
    let services = || pair.host.admin().get("/v1/services").expect(200).json()["services"].clone();
    let names = |list: &serde_json::Value| -> Vec<(String, String)> {
        let of =
            |service: &serde_json::Value, field: &str| service[field].as_str().unwrap().to_owned();
        list.as_array()
            .unwrap()
            .iter()
            .map(|service| (of(service, "name"), of(service, "revision")))
            .collect()
    };
    let before = names(&services());
    let said = pair.host.refuses(component);
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
    assert_eq!(names(&services()), before);
    pair.both_serve();
}

fn pair() -> Pair {
    Pair::start("deployed", |manifest| manifest)
}

/// A manifest that would do for anything that answers requests.
fn toml() -> String {
    let name = unique("candidate");
    format!("name = {name:?}\n[http]\nroutes = [\"/{name}\"]\n")
}

#[test]
fn a_file_that_is_no_component_is_refused() {
    let pair = pair();
    let files: [&[u8]; 4] = [
        b"",
        b"# just text\n",
        b"\0asm",
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0",
    ];
    for file in files {
        refused(&pair, &Component(file.to_vec()), &["component"]);
    }
}

#[test]
fn a_core_module_is_refused_with_how_to_make_a_component() {
    let module = Component::wat("(module)");
    refused(&pair(), &module, &["core WASM module", "wasm32-wasip2"]);
}

#[test]
fn a_component_without_a_manifest_is_refused_with_how_to_add_one() {
    refused(
        &pair(),
        &Component::wat("(component)"),
        &["manifest", "tidemill build"],
    );
}

#[test]
fn a_component_that_is_damaged_is_refused() {
    let pair = pair();
    let whole = Component::misbehave(&Manifest::new(&unique("damaged")));
    for length in [9, 100, whole.0.len() / 2, whole.0.len() - 1] {
        refused(&pair, &Component(whole.0[..length].to_vec()), &[]);
    }
    // A byte turned over in the middle: either it is refused, or it runs and
    // harms nobody.
    let mut turned = whole.0.clone();
    let middle = turned.len() / 2;
    turned[middle] ^= 0xff;
    let _ = pair.host.try_deploy(&Component(turned));
    pair.both_serve();
}

#[test]
fn a_component_of_another_world_is_refused_with_what_it_exports() {
    let other = Component::wat(
        r#"(component
            (core module $m (func (export "run")))
            (core instance $i (instantiate $m))
            (func $run (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "acme:shop/command@1.0.0" (instance $e)))"#,
    );
    refused(
        &pair(),
        &other.with(&toml()),
        &["tidemill:service/http", "acme:shop/command@1.0.0"],
    );
}

#[test]
fn a_handler_of_another_type_is_refused() {
    let other = Component::wat(
        r#"(component
            (core module $m (func (export "handle")))
            (core instance $i (instantiate $m))
            (func $handle (canon lift (core func $i "handle")))
            (instance $e (export "handle" (func $handle)))
            (export "tidemill:service/http@0.1.0" (instance $e)))"#,
    );
    refused(&pair(), &other.with(&toml()), &["tidemill:service/http"]);
}

#[test]
fn an_import_that_no_host_has_is_refused_by_name() {
    let unknown = Component::wat(
        r#"(component (import "acme:shop/cart@1.0.0" (instance (export "add" (func)))))"#,
    );
    refused(&pair(), &unknown.with(&toml()), &["acme:shop/cart@1.0.0"]);
}

#[test]
fn an_import_that_is_not_granted_is_refused_by_name() {
    let pair = pair();
    let sockets =
        Component::wat(r#"(component (import "wasi:sockets/instance-network@0.2.0" (instance)))"#);
    refused(
        &pair,
        &sockets.with(&toml()),
        &["wasi:sockets/instance-network"],
    );

    let mut manifest = Manifest::new(&unique("stateless"));
    manifest.state = false;
    refused(
        &pair,
        &Component::misbehave(&manifest),
        &["tidemill:service/state", "state = true"],
    );
}

#[test]
fn a_manifest_that_is_wrong_is_refused_with_line_and_column() {
    let pair = pair();
    let component = Component::misbehave(&Manifest::new(&unique("wrong")));
    let name = unique("wrong");
    for (toml, words) in [
        (
            format!("name = {name:?}\n[http]\nrouts = [\"/a\"]\n"),
            &["3:1", "routs", "routes"][..],
        ),
        (format!("name = {name:?}\nhttp = 1\n"), &["2:8", "http"]),
        (
            format!("name = {name:?}\n[http]\nroutes = [\"/a\"]\n[limits]\ntime = 5\n"),
            &["5:8", "5s"],
        ),
        ("name = \"Bad Name\"\n".to_owned(), &["1:8", "bad-name"]),
        ("name = \n".to_owned(), &["1:"]),
    ] {
        refused(&pair, &component.with(&toml), words);
    }
}

#[test]
fn a_manifest_that_does_not_fit_its_component_is_refused() {
    let pair = pair();
    let user = tidemill_tests::seed("user");
    let name = unique("unfit");
    refused(
        &pair,
        &user.with(&format!(
            "name = {name:?}\n[http]\nroutes = [\"/{name}\"]\n[[subscribe]]\ntopic = {name:?}\n"
        )),
        &["subscribes", "tidemill:service/events"],
    );
    refused(
        &pair,
        &user.with(&format!(
            "name = {name:?}\n[[subscribe]]\ntopic = {name:?}\n"
        )),
        &["[http]", "tidemill:service/http"],
    );
}

#[test]
fn a_route_that_is_taken_is_refused_with_both_names() {
    let pair = pair();
    let mut manifest = Manifest::new(&unique("second"));
    manifest.route = format!("/{}", pair.name);
    refused(
        &pair,
        &Component::misbehave(&manifest),
        &[&manifest.name, &pair.name, &manifest.route],
    );
    // One with a host name, or below the other, is another route.
    manifest.route = format!("shop.example/{}", pair.name);
    pair.host.deploy(&Component::misbehave(&manifest));
    manifest.route = format!("/{}/below", pair.name);
    pair.host.deploy(&Component::misbehave(&manifest));
    pair.both_serve();
}

#[test]
fn a_description_that_is_no_openapi_does_not_stop_others() {
    let pair = pair();
    for document in ["no JSON", "[]", r#"{"openapi":"3.1.0","paths":7}"#] {
        let manifest = Manifest::new(&unique("openapi")).setting("openapi", document);
        let _ = pair.host.try_deploy(&Component::misbehave(&manifest));
        let _ = pair.host.http().get("/openapi.json").expect(200).json();
        pair.both_serve();
    }
}

#[test]
fn a_host_that_is_started_with_a_bad_service_says_so_and_ends() {
    let mut host = Host::builder()
        .deploy([Component::wat("(module)")])
        .try_start();
    let status = host.process().wait();
    assert!(!status.success());
    assert!(host.log().contains("core WASM module"), "{}", host.log());
}
