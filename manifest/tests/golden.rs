//! Every bad manifest in `golden/` beside the message it must give, to the
//! letter. After a change of wording: `UPDATE_GOLDEN=1 cargo test`, then read
//! the difference.

use std::fs;
use std::path::{Path, PathBuf};

use tidemill_manifest::Manifest;

fn manifests() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .collect();
    files.sort();
    files
}

#[test]
fn a_bad_manifest_says_what_to_write() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let files = manifests();
    assert!(files.len() >= 25, "only {} manifests", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a manifest");
        let said = match Manifest::parse(&text, "service.toml") {
            Ok(_) => panic!("{} is accepted", file.display()),
            Err(error) => format!("{error}\n"),
        };
        let expected = file.with_extension("txt");
        if update {
            fs::write(&expected, said).expect("written");
        } else if fs::read_to_string(&expected).unwrap_or_default() != said {
            wrong.push(format!("{}:\n{said}", expected.display()));
        }
    }
    assert!(wrong.is_empty(), "not as expected:\n\n{}", wrong.join("\n"));
}
