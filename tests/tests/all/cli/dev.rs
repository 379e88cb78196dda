//! `tidemill dev`, as somebody uses it who writes a service.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use tidemill_tests::{
    Client, Folder, Host, Process, Signal, builds_soon, eventually, run, tidemill,
};

/// A new project with a session on it.
struct Session {
    process: Process,
    http: Option<Client>,
    admin: String,
    // Last: what runs in it has ended by then.
    project: PathBuf,
}

impl Session {
    /// Begins one, and waits until its first build serves.
    fn begin(project: &Path, log: &str, arguments: &[&str]) -> Session {
        let mut command = Command::new(tidemill());
        builds_soon(&mut command, "watched")
            .arg("dev")
            .args(arguments)
            .current_dir(project);
        let log = project.with_file_name(log);
        let process = Process::start("tidemill dev", command, &log);
        let mut session = Session {
            process,
            http: None,
            admin: String::new(),
            project: project.to_path_buf(),
        };
        // The dependencies may have to be built.
        while !session.shows("serving after") {
            assert!(session.process.ended().is_none(), "it ended");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let place = |name: &str| {
            let output = session.process.output();
            let mut lines = output.lines().map(str::split_whitespace);
            let mut line = lines.find(|line| line.clone().next() == Some(name))?;
            let url = line.nth(1)?.strip_prefix("http://")?;
            Some(url.to_owned())
        };
        session.http = place("services").map(|address| Client::at(&address));
        session.admin = place("admin").unwrap_or_default();
        session
    }

    fn http(&self) -> &Client {
        self.http.as_ref().expect("a host was started")
    }

    fn shows(&self, text: &str) -> bool {
        self.process.output().contains(text)
    }

    /// How often it has shown something.
    fn count(&self, text: &str) -> usize {
        self.process.output().matches(text).count()
    }

    fn waits_for(&self, text: &str) {
        eventually(text, || match self.shows(text) {
            true => Ok(()),
            false => Err(self.process.output()),
        });
    }

    /// Saves a file with something in it replaced.
    fn save(&self, file: &str, old: &str, new: &str) {
        let path = self.project.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(old), "{old:?} is not in {text}");
        std::fs::write(&path, text.replace(old, new)).unwrap();
    }

    fn adds(&self, name: &str) -> String {
        let item = br#"{"id":"7","name":"a lamp"}"#;
        let headers = [("content-type", "application/json")];
        let reply = self
            .http()
            .send("POST", "/shop", &headers, item)
            .expect(200);
        let text = reply.text().to_owned();
        assert!(!text.is_empty(), "{name}");
        text
    }
}

#[test]
fn what_is_saved_serves_and_what_is_broken_changes_nothing() {
    let folder = Folder::at_its_place("watched");
    let (made, output, error) = run(Command::new(tidemill())
        .args(["new", "shop"])
        .current_dir(folder.path()));
    assert!(made, "{output}{error}");
    let project = folder.path().join("shop");
    let own = ["--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let mut session = Session::begin(&project, "first.log", &own);
    assert!(session.adds("first").contains("a lamp"));

    // A save is a new answer, and each request a line.
    let changed = "Ok(Json(Item { name: \"a table\".to_owned(), ..item }))";
    session.save("src/lib.rs", "Ok(Json(item))", changed);
    eventually("the new code answers", || match session.adds("second") {
        text if text.contains("a table") => Ok(()),
        text => Err(text),
    });
    assert!(session.shows("src/lib.rs has changed"));
    eventually("its invocations are shown", || {
        session.adds("third");
        let output = session.process.output();
        let request = output.contains("POST /shop 200");
        match request && output.contains("shop_topic/") && output.contains(" ok ") {
            true => Ok(()),
            false => Err(output),
        }
    });

    // The manifest alone needs no cargo.
    let built = eventually("both builds are shown", || {
        match session.count("built in") {
            2 => Ok(2),
            _ => Err(session.process.output()),
        }
    });
    session.save(
        "service.toml",
        "routes = [\"/shop\"]",
        "routes = [\"/shop\", \"/store\"]",
    );
    session.waits_for("/store\n");
    assert_eq!(session.count("built in"), built);

    // What is wrong with it is said with its line, and with the host's words.
    session.save("service.toml", "\"/store\"", "7");
    session.waits_for("service.toml:");
    session.waits_for("serves on");
    session.save("service.toml", ", 7", "");
    session.save("service.toml", "state = true", "state = false");
    session.waits_for("is not deployed");
    session.waits_for("does not grant");
    session.save("service.toml", "state = false", "state = true");

    // So is what is wrong with the code.
    session.save("src/lib.rs", "a table", "a table\" + oops + \"");
    session.waits_for("does not compile");
    session.waits_for("cannot find value `oops`");
    assert!(session.adds("fourth").contains("a table"));

    // It ends in the middle of a build, and its host with it.
    let begun = session.count("has changed");
    session.save("src/lib.rs", " + oops + ", " ");
    session.save("src/lib.rs", "a table\" \"", "a chair");
    eventually("a build has begun", || match session.count("has changed") {
        count if count > begun => Ok(()),
        _ => Err(session.process.output()),
    });
    session.process.signal(Signal::INT);
    let status = session.process.wait();
    assert!(status.success(), "{status}");
    assert!(TcpStream::connect(&session.admin).is_err(), "the host runs");

    // A host that ran before is used, and runs on.
    let host = Host::embedded([]);
    let admin = host.admin().address().to_owned();
    let mut second = Session::begin(&project, "second.log", &["--admin", &admin]);
    assert!(second.shows("which ran already"));
    let item = br#"{"id":"7","name":"a lamp"}"#;
    let headers = [("content-type", "application/json")];
    let reply = host
        .http()
        .send("POST", "/shop", &headers, item)
        .expect(200);
    assert!(reply.text().contains("a chair"), "{reply:?}");
    second.process.signal(Signal::TERM);
    assert!(second.process.wait().success());
    let _ = host.http().get("/shop").expect(200);
}

#[test]
fn what_is_no_service_is_not_watched() {
    let folder = Folder::new("dev-nothing");
    let (worked, _, error) = run(Command::new(tidemill())
        .arg("dev")
        .current_dir(folder.path()));
    assert!(!worked && error.contains("Cargo.toml"), "{error}");
}
