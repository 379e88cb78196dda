//! Switches off single mechanisms, so that tests can be shown to need them:
//! `make sabotage`. Only a build with the feature `sabotage` has it; in all others
//! every mechanism is on, and the compiler knows.

/// Whether a mechanism is switched off by the variable `SABOTAGE`.
#[cfg(feature = "sabotage")]
pub(crate) fn is_off(mechanism: &str) -> bool {
    std::env::var("SABOTAGE").is_ok_and(|off| off == mechanism)
}

/// Whether a mechanism is switched off: it is not.
#[cfg(not(feature = "sabotage"))]
pub(crate) const fn is_off(_mechanism: &str) -> bool {
    false
}
