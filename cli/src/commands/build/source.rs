//! Which source a build is made of, as git knows it.

use std::path::Path;

use crate::inspection::DIRTY;
use crate::project::program;

/// The commit that a service is built from, with [`DIRTY`] behind it if it is
/// not all there is; none if git does not have the service.
pub(super) fn revision(dir: &Path) -> Option<String> {
    // A folder that its repository ignores is no part of any commit.
    git(dir, &["ls-files", "--error-unmatch", "--", "Cargo.toml"])?;
    let status = [
        "status",
        "--porcelain=v2",
        "--branch",
        "--untracked-files=normal",
    ];
    of_status(&git(dir, &status)?)
}

fn of_status(status: &str) -> Option<String> {
    let commit = status
        .lines()
        .find_map(|line| line.strip_prefix("# branch.oid "))?;
    if commit.bytes().any(|byte| !byte.is_ascii_hexdigit()) {
        return None;
    }
    let clean = status.lines().all(|line| line.starts_with('#'));
    Some(format!("{commit}{}", if clean { "" } else { DIRTY }))
}

fn git(dir: &Path, arguments: &[&str]) -> Option<String> {
    let output = program("git", dir)
        // Looking must not hinder a git that works.
        .env("GIT_OPTIONAL_LOCKS", "0")
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_told_from_one_with_changes_beside_it() {
        let clean = "# branch.oid 3f2a9c\n# branch.head main\n# branch.ab +0 -0\n";
        assert_eq!(of_status(clean).as_deref(), Some("3f2a9c"));
        for change in ["1 .M N... 100644 100644 100644 a a a.rs", "? new.rs"] {
            let status = format!("{clean}{change}\n");
            assert_eq!(of_status(&status).as_deref(), Some("3f2a9c-dirty"));
        }
    }

    #[test]
    fn before_the_first_commit_there_is_no_revision() {
        let status = "# branch.oid (initial)\n# branch.head main\n? Cargo.toml\n";
        assert_eq!(of_status(status), None);
    }
}
