//! What the documentation says of the tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tidemill_tests::{Host, root};

/// The rows of all tables of a page, without their heads: the cells.
fn rows(page: &str) -> Vec<Vec<String>> {
    let lines: Vec<&str> = page.lines().collect();
    let tables = lines.split(|line| !line.starts_with('|'));
    // The head, and the line below it.
    let rows = tables.flat_map(|table| table.iter().skip(2));
    let cells = |row: &&str| {
        // A bar in a cell is escaped.
        let row = row.replace("\\|", "/");
        let cells = row.trim().trim_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    };
    rows.map(cells).collect()
}

/// Whether there is a test `module::…::name` below `tests/tests/all`.
fn exists(name: &str) -> bool {
    let mut path: Vec<&str> = name.split("::").collect();
    let function = path.pop().unwrap_or_default();
    let module = path.join("/");
    let all = root().join("tests/tests/all");
    let files = [format!("{module}.rs"), format!("{module}/mod.rs")];
    let text = files
        .iter()
        .find_map(|file| fs::read_to_string(all.join(Path::new(file))).ok());
    let test = format!("fn {function}()");
    text.is_some_and(|text| {
        let before = text.split_once(&test).map(|(before, _)| before);
        // The attribute is right above, perhaps with others.
        before.is_some_and(|before| {
            let above = before.rsplit("\n\n").next().unwrap_or_default();
            above.contains("#[test]")
        })
    })
}

#[test]
fn each_failure_that_is_documented_has_a_test_that_exists() {
    let page = fs::read_to_string(root().join("docs/when-things-go-wrong.md")).unwrap();
    let rows = rows(&page);
    assert!(rows.len() > 30, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for row in rows {
        assert_eq!(row.len(), 6, "six cells: {row:?}");
        // What no test shows says so, and what to read instead.
        if row[5].starts_with("none: ") {
            continue;
        }
        for name in row[5].split(", ") {
            let name = name.trim_matches('`');
            if !exists(name) {
                wrong.push(format!("{}: there is no test {name:?}", row[0]));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Paths and methods that the admin API's page names, without its links.
fn of_page() -> BTreeSet<(String, String)> {
    let page = fs::read_to_string(root().join("docs/admin-api.md")).unwrap();
    let table = page.split("| resource | method |").nth(1).unwrap();
    let table = table.split("\n\n").next().unwrap();
    let mut named = BTreeSet::new();
    for row in rows(&format!("| resource | method |{table}")) {
        // "[`/a`, `…/b`](#c)": the second is beside the first.
        let paths: Vec<&str> = row[0].split('`').skip(1).step_by(2).collect();
        for path in &paths {
            let path = match path.strip_prefix('…') {
                Some(last) => {
                    let first = paths[0].rsplit_once('/').unwrap().0;
                    format!("{first}{last}")
                }
                None => (*path).to_owned(),
            };
            named.insert((path, row[1].to_lowercase()));
        }
    }
    named
}

#[test]
fn the_admin_api_is_what_its_document_and_its_page_say() {
    let host = Host::embedded([]);
    let document = host.admin().get("/v1/openapi.json").expect(200).json();
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            described.insert((path.clone(), method.clone()));
            // It is there: what is missing is the service.
            let target = path.replace("{name}", "nobody").replace("{id}", "0@1");
            let target = target.replace("{table}", "t");
            let reply = host.admin().send(&method.to_uppercase(), &target, &[], b"");
            assert!(reply.status != 405, "{method} {path}: {reply:?}");
            assert!(
                !reply.text().contains("problem:no-route"),
                "{method} {path}: {reply:?}"
            );
        }
    }
    let mut named = of_page();
    assert!(named.remove(&("/v1/openapi.json".to_owned(), "get".to_owned())));
    assert_eq!(described, named);
}
