//! The cargo profile for short cycles. It is given on the command line, so that no
//! project has to have it.

/// Its name, and that of its folder in cargo's target directory.
pub(super) const NAME: &str = "tidemill-dev";

/// What it is. Code that is not optimised at all is so large that the host's compiler
/// takes seconds for it. (The project of `tidemill new` has 30 MB then, and 1.2 MB so.
/// With `opt-level = 1` it has 1.29 MB: cargo takes 0.8 to 0.9 s of CPU time for a
/// change, the host's compiler 1.4 to 1.5 s. With "s" they take 0.9 to 1.0 s and 1.3
/// to 1.5 s.)
const SETTINGS: [&str; 6] = [
    "inherits=\"dev\"",
    "opt-level=\"s\"",
    "debug=false",
    "debug-assertions=false",
    "strip=\"debuginfo\"",
    "panic=\"abort\"",
];

/// The arguments that tell cargo of it.
pub(super) fn arguments() -> impl Iterator<Item = String> {
    SETTINGS
        .iter()
        .flat_map(|setting| ["--config".to_owned(), format!("profile.{NAME}.{setting}")])
}
