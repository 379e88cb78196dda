//! Components that are made to harm: each ends where it should, with a reason,
//! and what runs beside it goes on.

use std::fmt::Write as _;

use tidemill_tests::{Component, CoreHttp, Folder, Host, Manifest, eventually, unique};

use crate::Pair;

fn pair() -> Pair {
    Pair::start("hostile", |manifest| manifest)
}

/// A manifest for a hand-written handler, and its route.
fn toml(limits: &str) -> (String, String) {
    let name = unique("bare");
    let toml = format!("name = {name:?}\n[http]\nroutes = [\"/{name}\"]\n[limits]\n{limits}");
    (toml, format!("/{name}"))
}

/// Bytes of memory of the host's process.
fn resident(pair: &mut Pair) -> u64 {
    let id = pair.host.process().id();
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kilobytes = line.split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() * 1024
}

#[test]
fn what_traps_or_loops_at_the_deploy_is_refused() {
    let pair = pair();
    let looping = "(loop br 0) unreachable";
    for (start, word) in [("unreachable", "unreachable"), (looping, "limits.time")] {
        let core = CoreHttp {
            handle: "unreachable".to_owned(),
            more: format!("(func $s {start}) (start $s)"),
            pages: 1,
        };
        let (toml, _) = toml("time = \"200ms\"\n");
        let said = pair.host.refuses(&core.component(&toml));
        assert!(said.contains(word), "{said}");
        pair.both_serve();
    }
    for (mode, time, word) in [
        ("trap", "60s", "unreachable"),
        ("loop", "500ms", "limits.time"),
        ("alloc", "60s", "limits.memory"),
        ("recurse", "60s", "call stack"),
    ] {
        let manifest = Manifest::new(&unique("describe"))
            .limit("time", &format!("{time:?}"))
            .setting("describe", mode);
        let said = pair.host.refuses(&Component::misbehave(&manifest));
        assert!(said.contains(word), "{mode}: {said}");
        pair.both_serve();
    }
}

#[test]
fn lists_that_are_not_in_the_guests_memory_are_500() {
    let mut pair = pair();
    let before = resident(&mut pair);
    for response in [
        [200, 0, 0, 0, u32::MAX],
        [200, 0, u32::MAX, 0, 0],
        [200, 0, 0x0800_0000, 0, 0],
        [200, 0, 0, u32::MAX, 16],
        [200, 0, 0, 65_535, 2],
        [200, 3, 1, 0, 0],
    ] {
        let (toml, route) = toml("");
        pair.host
            .deploy(&CoreHttp::answering(response).component(&toml));
        pair.host.http().get(&route).problem(500);
        pair.both_serve();
    }
    // An address that is none.
    let core = CoreHttp {
        handle: "i32.const -16".to_owned(),
        ..CoreHttp::default()
    };
    let (toml, route) = toml("");
    pair.host.deploy(&core.component(&toml));
    pair.host.http().get(&route).problem(500);
    pair.both_serve();
    let after = resident(&mut pair);
    assert!(after < before + (256 << 20), "{before} then {after}");
}

#[test]
fn a_small_guest_cannot_hand_over_more_than_its_limits() {
    let mut pair = pair();
    let before = resident(&mut pair);
    // 300,000 header fields, all of them with the same megabyte as value.
    let core = CoreHttp {
        handle: "(local $at i32)
            (local.set $at (i32.const 2097152))
            (loop $more
                (i32.store (local.get $at) (i32.const 64))
                (i32.store offset=4 (local.get $at) (i32.const 1))
                (i32.store offset=8 (local.get $at) (i32.const 0))
                (i32.store offset=12 (local.get $at) (i32.const 1048576))
                (local.set $at (i32.add (local.get $at) (i32.const 16)))
                (br_if $more (i32.lt_u (local.get $at) (i32.const 6897152))))
            i32.const 16"
            .to_owned(),
        more: format!(
            "(data (i32.const 16) \"{}\") (data (i32.const 64) \"x\")",
            "\\c8\\00\\00\\00\\00\\00\\20\\00\\e0\\93\\04\\00\\00\\00\\00\\00\\00\\00\\00\\00"
        ),
        pages: 128,
    };
    let (toml, route) = toml("");
    pair.host.deploy(&core.component(&toml));
    pair.host.http().get(&route).problem(500);
    pair.both_serve();
    let after = resident(&mut pair);
    assert!(after < before + (256 << 20), "{before} then {after}");
}

#[test]
fn a_response_with_too_many_or_too_long_header_fields_is_502() {
    let pair = pair();
    for mode in [
        "headers?n=501&bytes=1",
        "headers?n=40000&bytes=1",
        "headers?n=70&bytes=1000",
    ] {
        pair.host.http().get(&pair.target(mode)).problem(502);
        pair.both_serve();
    }
    let reply = pair.host.http().get(&pair.target("headers?n=50&bytes=100"));
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[test]
fn tables_and_memories_count_to_the_memory_limit() {
    let pair = pair();
    // At the deploy.
    let large = CoreHttp {
        handle: "unreachable".to_owned(),
        more: "(table 5000000 funcref)".to_owned(),
        pages: 1,
    };
    let said = pair.host.refuses(&large.component(&toml("").0));
    assert!(said.contains("exceeds the limit"), "{said}");
    let large = CoreHttp {
        handle: "unreachable".to_owned(),
        pages: 1025,
        ..CoreHttp::default()
    };
    let said = pair.host.refuses(&large.component(&toml("").0));
    assert!(said.contains("limits.memory"), "{said}");
    // In a call, until it is refused.
    for grow in [
        "(table.grow $t (ref.null func) (i32.const 10000))",
        "(memory.grow (i32.const 16))",
    ] {
        let core = CoreHttp {
            handle: format!(
                "(loop $more (br_if $more (i32.ne {grow} (i32.const -1)))) unreachable"
            ),
            more: "(table $t 1 funcref)".to_owned(),
            pages: 1,
        };
        let (toml, route) = toml("");
        pair.host.deploy(&core.component(&toml));
        pair.host.http().get(&route).problem(500);
        pair.both_serve();
    }
}

#[test]
fn an_await_that_never_comes_ends_with_its_time() {
    let pair = Pair::start("forever", |manifest| manifest.limit("time", "\"300ms\""));
    for mode in ["forever", "sleep?ms=600000"] {
        let reply = pair.host.http().get(&pair.target(mode));
        assert!(matches!(reply.status, 500 | 504), "{mode}: {reply:?}");
        reply.problem(reply.status);
        pair.both_serve();
    }
}

#[test]
fn publishing_and_writing_without_end_is_refused_within_the_call() {
    let topic = unique("endless");
    let pair = Pair::start("endless", |manifest| {
        manifest.publish(&topic).limit("time", "\"60s\"")
    });
    let target = pair.target(&format!("publish?topic={topic}&n=1000000&bytes=10000"));
    let reply = pair.host.http().get(&target).expect(409);
    assert!(reply.text().contains("limits.effects"), "{reply:?}");
    pair.host
        .topics()
        .write_all(&pair.name, 0, &["rows 100000"]);
    eventually("the event is refused, with the limit", || {
        match pair.host.log().contains("limits.effects-size") {
            true => Ok(()),
            false => Err("it is not in the log"),
        }
    });
    // It has answered, so what it was allowed is there.
    assert!(pair.host.topics().read(&topic).len() < 1700);
    pair.neighbour_serves();
}

#[test]
fn a_handler_of_events_that_traps_or_loops_holds_up_its_partition_alone() {
    let pair = Pair::start("events", |manifest| manifest.limit("time", "\"300ms\""));
    for mode in ["trap", "loop", "recurse"] {
        pair.host.topics().write_all(&pair.name, 0, &[mode]);
        pair.both_serve();
    }
    pair.host.topics().write_all(&pair.name, 1, &["ok"]);
    eventually("the other partition is handled", || {
        let rows = pair.host.http().get(&pair.target("rows"));
        match rows.text().contains("\"ok\"") {
            true => Ok(()),
            false => Err(rows),
        }
    });
}

/// Text of a component with another in it, in another, so many times.
fn nested(depth: usize, inner: &str) -> String {
    format!(
        "{}{inner}{}",
        "(component ".repeat(depth),
        ")".repeat(depth)
    )
}

/// A component that has, at each of so many levels, two instances of the next.
fn doubling(levels: usize) -> String {
    let mut text = String::from(
        "(component $c0 (core module $m (func (export \"f\"))) (core instance (instantiate $m)))",
    );
    for level in 1..=levels {
        text = format!(
            "(component $c{level} {text} (instance (instantiate $c{0})) (instance (instantiate $c{0})))",
            level - 1
        );
    }
    text.replacen(&format!("(component $c{levels}"), "(component", 1)
}

#[test]
fn a_component_that_is_all_frame_is_refused() {
    let pair = pair();
    let mut imports = String::from("(component ");
    let mut exports = imports.clone();
    let mut types = imports.clone();
    for number in 0..20_000 {
        let _ = write!(imports, "(import \"i{number}\" (func)) ");
        let _ = write!(
            exports,
            "(instance $e{number}) (export \"e{number}\" (instance $e{number})) "
        );
        let _ = write!(types, "(type (list u8)) ");
    }
    for text in [&mut imports, &mut exports, &mut types] {
        text.push(')');
    }
    let bombs = [
        imports,
        exports,
        types,
        nested(90, ""),
        nested(2, "(core module (func))"),
        doubling(3),
    ];
    for bomb in bombs {
        let component = Component::wat(&bomb).with(&toml("").0);
        let said = pair.host.refuses(&component);
        assert!(said.len() < 20_000, "{} bytes of reason", said.len());
        pair.both_serve();
    }
}

#[test]
fn what_compiles_for_ever_is_refused_while_others_serve() {
    let name = unique("steady");
    let folder = Folder::new("config");
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "compile-time = 60\n").unwrap();
    let mut host = Host::builder()
        .arguments(&["--config", config.to_str().unwrap()])
        .deploy([Component::misbehave(&Manifest::new(&name))])
        .ready();
    // That one is compiled: now there is less time.
    host.terminate();
    std::fs::write(&config, "compile-time = 1\n").unwrap();
    host.restart();
    host.ready();
    // A file of a few kilobytes, and a million million instances.
    let component = Component::wat(&doubling(40)).with(&toml("").0);
    std::thread::scope(|scope| {
        let deploy = scope.spawn(|| host.refuses(&component));
        while !deploy.is_finished() {
            let reply = host.http().get(&format!("/{name}/ok"));
            assert_eq!(reply.status, 200, "{reply:?}");
        }
        let said = deploy.join().unwrap();
        assert!(said.contains("--compile-time"), "{said}");
    });
}
