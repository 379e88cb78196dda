//! What the documentation says of the tests.

use std::fs;
use std::path::Path;

use tidemill_tests::root;

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
