//! HTTP/2 as RFC 9113 and RFC 7541 have it: all cases of h2spec, strict ones
//! too, against both listeners.

use std::process::Command;

use tidemill_tests::{Component, Host, Manifest, h2spec, run, seed, unique};

/// Cases that fail, with the reason.
const KNOWN: [&str; 1] = [
    // 3.5: it is about a server that expects HTTP/2. These listeners speak
    // HTTP/1.1 as well, where the same bytes are a malformed request: that is
    // answered with 400, in HTTP/1.1, and the connection closed.
    "Sends invalid connection preface",
];

/// Of a response of this size a part waits for the client's window. So no stream
/// is over before the case has done what it is about.
const LARGE: usize = 200_000;

#[test]
fn both_listeners_pass_h2spec() {
    let Some(h2spec) = h2spec() else {
        eprintln!(
            "NOT CHECKED: HTTP/2 conformance; h2spec is not there (`make h2spec` fetches it)"
        );
        return;
    };
    let name = unique("conforms");
    // The admin listener asks Kafka about a service that consumes, which takes its
    // time; the one that is asked for here does not.
    let large = format!("name = \"user\"\n# {}\n", "x".repeat(LARGE));
    let host = Host::embedded([
        Component::misbehave(&Manifest::new(&name)),
        seed("user").edited(&[("name = \"user\"\n", &large)]),
    ]);
    for (address, path) in [
        (host.http().address(), format!("/{name}/big?bytes={LARGE}")),
        (host.admin().address(), "/v1/services/user".to_owned()),
    ] {
        let (ip, port) = address.rsplit_once(':').unwrap();
        let mut command = Command::new(&h2spec);
        command.args(["--strict", "--host", ip, "--port", port, "--path", &path]);
        // Some wait that long for nothing to come; others fail when it is over.
        command.args(["--timeout", "5"]);
        let (_, said, _) = run(&mut command);
        let failed: Vec<&str> = said
            .split_once("Failures:")
            .map_or("", |(_, failures)| failures)
            .lines()
            .filter_map(|line| line.trim().strip_prefix("× "))
            .filter(|case| !KNOWN.iter().any(|known| case.ends_with(known)))
            .collect();
        assert!(failed.is_empty(), "{path}: {failed:#?}\n{said}");
        assert!(said.contains(" 0 skipped, "), "{said}");
    }
    let _ = host.http().get(&format!("/{name}/ok")).expect(200);
}
