//! What `tidemill build` asks of a component, without a host.

use std::path::PathBuf;

use tidemill_host::describe::openapi;
use tidemill_manifest::Manifest;

/// The component that does on request whatever a host must survive, as
/// `make guests` built it.
fn misbehave() -> Vec<u8> {
    let beside = || {
        let test = std::env::current_exe().expect("this test's file");
        test.ancestors()
            .nth(3)
            .expect("the target folder")
            .join("tidemill")
    };
    let folder = std::env::var_os("TIDEMILL_COMPONENTS").map_or_else(beside, PathBuf::from);
    let file = folder.join("guests/misbehave.wasm");
    std::fs::read(&file).unwrap_or_else(|error| panic!("{file:?}: {error}: run `make guests`"))
}

fn described(settings: &str) -> Result<Option<String>, String> {
    let text = format!(
        "name = \"described\"\n[http]\nroutes = [\"/\"]\n[[subscribe]]\ntopic = \"t\"\n\
         [grants]\nstate = true\n[limits]\ntime = \"200ms\"\n[settings]\n{settings}"
    );
    let manifest = Manifest::parse(&text, "service.toml").expect("it is valid");
    openapi(&misbehave(), manifest).map_err(|error| error.to_string())
}

#[test]
fn a_component_gives_its_document() {
    let document = described("")
        .expect("it describes itself")
        .expect("a document");
    assert!(document.contains("\"title\":\"misbehave\""), "{document}");
}

#[test]
fn one_that_fails_says_how_and_what_it_said() {
    for (settings, words) in [
        ("describe = \"panic\"", &["trapped", "panicked at"][..]),
        ("describe = \"loop\"", &["limits.time"]),
        ("openapi = \"no JSON\"", &["is not JSON"]),
    ] {
        let said = described(settings).expect_err(settings);
        for word in words {
            assert!(said.contains(word), "{word:?} is not in {said}");
        }
    }
}

#[test]
fn one_that_no_host_would_take_is_told_so() {
    let text = "name = \"a\"\n[http]\nroutes = [\"/\"]\n[[subscribe]]\ntopic = \"t\"\n";
    let manifest = Manifest::parse(text, "service.toml").expect("it is valid");
    let error = openapi(&misbehave(), manifest).expect_err("state is not granted");
    assert!(error.to_string().contains("state = true"), "{error}");
}
