//! From a new project to one file that is the whole service, and what that file
//! says of itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;
use tidemill_tests::{Component, Folder, Host, Manifest, builds_soon, copy, run, target, tidemill};

use super::json;

/// A service's project in a folder, and the name of what cargo builds of it.
struct Project(PathBuf, &'static str);

impl Project {
    fn run(&self, program: &Path, arguments: &[&str]) -> (bool, String, String) {
        run(builds_soon(&mut Command::new(program), self.1)
            .args(arguments)
            .current_dir(&self.0))
    }

    /// Runs a program that has to succeed.
    fn command(&self, program: impl AsRef<Path>, arguments: &[&str]) -> String {
        let (worked, output, error) = self.run(program.as_ref(), arguments);
        assert!(worked, "{arguments:?}\n{output}\n{error}");
        output
    }

    fn build(&self) -> Value {
        json(&self.command(tidemill(), &["build", "--json"]))
    }

    fn git(&self, arguments: &[&str]) -> String {
        let who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"];
        self.command("git", &[&who, arguments].concat())
    }

    /// The same source in another folder, built in another one.
    fn copied(&self, to: &Path) -> Project {
        copy(&self.0, to);
        // What is built for macros is not built again.
        let built = target().join("new");
        if !built.join("copy").exists() {
            let (done, _, error) = run(Command::new("cp")
                .args(["-a", self.1, "copy"])
                .current_dir(built));
            assert!(done, "{error}");
        }
        Project(to.to_owned(), "copy")
    }
}

fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap_or_else(|| panic!("{list}"));
    list.iter().map(|text| text.as_str().unwrap()).collect()
}

/// One test for the way of a project, since its first build is dear.
#[test]
fn a_new_service_is_one_file_wherever_it_is_built() {
    let host = Host::embedded([]);
    let folder = Folder::at_its_place("project");
    let (made, output, error) = run(Command::new(tidemill())
        .args(["new", "shop"])
        .current_dir(folder.path()));
    assert!(made, "{output}{error}");
    let shop = Project(folder.path().join("shop"), "project");
    let cargo = env::var_os("CARGO").unwrap_or("cargo".into());
    shop.command(&cargo, &["test"]);

    let built = shop.build();
    let file = built["file"].as_str().unwrap();
    let can = texts(&built["can"]);
    assert!(can.contains(&"publish to shop_topic"), "{can:?}");
    assert!(can.contains(&"read and write its own state"), "{can:?}");
    let operations = built["operations"].as_array().unwrap();
    assert!(
        operations.iter().any(|one| one["path"] == "/shop"),
        "{built}"
    );
    let packages = built["packages"].as_array().unwrap();
    let named = |name: &str| packages.iter().find(|package| package["name"] == name);
    assert_eq!(packages[0]["name"], "shop");
    assert_eq!(named("axum").unwrap()["licence"], "MIT");
    // A macro, and what only its tests use, did not go into it.
    assert!(named("serde_derive").is_none() && named("syn").is_none());
    // The repository around it ignores it.
    assert_eq!(built["revision"], Value::Null);
    let bytes = fs::read(file).unwrap();
    let foreign = env::var("HOME").unwrap_or("/work".to_owned());
    for folder in [foreign.as_str(), shop.0.to_str().unwrap()] {
        let found = bytes
            .windows(folder.len())
            .any(|part| part == folder.as_bytes());
        assert!(!found, "{folder} is in the component");
    }

    let elsewhere = shop.copied(&folder.path().join("else where/shop"));
    assert_eq!(elsewhere.build()["digest"], built["digest"]);

    elsewhere.git(&["init", "--quiet"]);
    elsewhere.git(&["add", "--all"]);
    elsewhere.git(&["commit", "--quiet", "--message", "Open the shop"]);
    let commit = elsewhere.git(&["rev-parse", "HEAD"]);
    let committed = elsewhere.build();
    assert_eq!(committed["revision"], commit.trim());
    assert_ne!(committed["digest"], built["digest"]);
    fs::write(elsewhere.0.join("note"), "").unwrap();
    let dirty = format!("{}-dirty", commit.trim());
    assert_eq!(elsewhere.build()["revision"], dirty);

    let deployed = json(&elsewhere.command(
        tidemill(),
        &["deploy", "--json", "--admin", host.admin().address()],
    ));
    let shown = json(&elsewhere.command(tidemill(), &["inspect", "--json"]));
    assert_eq!(deployed["revision"], shown["digest"]);
    assert_eq!(shown["revision"], dirty);
    let reply = host.http().get("/shop");
    assert!(reply.status < 500 && reply.status != 404, "{reply:?}");
}

#[test]
fn another_manifest_leaves_what_else_the_file_says() {
    let host = Host::embedded([]);
    let folder = host.folder().path();
    let user = tidemill_tests::seed("user");
    fs::write(folder.join("user.wasm"), &user.0).unwrap();
    let manifest = "name = \"other\"\n[http]\nroutes = [\"/other\"]\n";
    fs::write(folder.join("other.toml"), manifest).unwrap();

    let inspect = |arguments: &[&str]| {
        let all = [&["inspect", "user.wasm"], arguments].concat();
        let (worked, output, error) = host.cli(&all);
        assert!(worked, "{output}{error}");
        output
    };
    let own = json(&inspect(&["--json"]));
    let other = ["--manifest", "other.toml"];
    let changed = json(&inspect(&[&other[..], &["--json"]].concat()));
    assert_eq!(changed["name"], "other");
    for kept in ["operations", "packages", "revision", "licence", "exports"] {
        assert_eq!(changed[kept], own[kept], "{kept}");
    }
    let arguments = [&["deploy", "user.wasm", "--json"], &other[..]].concat();
    let (worked, output, error) = host.cli(&arguments);
    assert!(worked, "{output}{error}");
    assert_eq!(json(&output)["revision"], changed["digest"]);
}

#[test]
fn a_file_says_what_it_could_do_if_it_were_deployed() {
    let host = Host::embedded([]);
    let folder = host.folder().path();
    let manifest = Manifest::new("careful").setting("api-token", "hunter2");
    let component = Component::misbehave(&manifest);
    fs::write(folder.join("careful.wasm"), &component.0).unwrap();
    let (worked, output, error) = host.cli(&["inspect", "careful.wasm"]);
    assert!(worked, "{error}");
    for part in [
        "+ answer /careful",
        "+ handle careful exactly once",
        "+ read and write its own state",
        "- nothing else: no files, no network, no environment",
        "api-token = …",
        "no commit is known",
    ] {
        assert!(output.contains(part), "{part:?} is not in {output}");
    }
    assert!(!output.contains("hunter2"), "{output}");
    let (worked, _, error) = host.cli(&["inspect", "careful.wasm", "--section", "revision"]);
    assert!(!worked && error.contains("no section revision"), "{error}");
    let section = ["inspect", "careful.wasm", "--section", "tidemill:manifest"];
    let (worked, raw, _) = host.cli(&section);
    assert!(worked && raw == manifest.toml(), "{raw}");
}

#[test]
fn a_file_that_is_no_service_says_why() {
    let host = Host::embedded([]);
    let whole = Component::misbehave(&Manifest::new("whole")).0;
    let bare = Component::wat("(component)").0;
    let module = Component::wat("(module)").0;
    let mut flipped = whole.clone();
    // In the middle of its code.
    let middle = flipped.len() / 2;
    flipped[middle..middle + 64].fill(0xff);
    for (file, bytes, said) in [
        (
            "text.wasm",
            b"just text".to_vec(),
            "not a WebAssembly component",
        ),
        ("module.wasm", module, "core WebAssembly module"),
        ("cut.wasm", whole[..whole.len() - 9].to_vec(), "damaged"),
        ("flipped.wasm", flipped, "damaged"),
        ("bare.wasm", bare, "no manifest"),
        ("empty.wasm", Vec::new(), "not a WebAssembly component"),
    ] {
        fs::write(host.folder().path().join(file), bytes).unwrap();
        let (worked, _, error) = host.cli(&["inspect", file]);
        assert!(!worked && error.contains(said), "{file}: {error}");
        assert!(error.contains(file), "{error}");
    }
    let (worked, _, error) = host.cli(&["inspect", "missing.wasm"]);
    assert!(!worked && error.contains("missing.wasm"), "{error}");
}
