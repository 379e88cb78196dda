//! The manifest's settings.

use crate::sys;

/// The value of a key of `[settings]` in the service's manifest (it comes
/// through `wasi:config`); none if it is not set.
///
/// ```
/// let currency = tidemill::setting("currency").unwrap_or_else(|| "EUR".to_owned());
/// # assert_eq!(currency, "EUR");
/// ```
pub fn setting(key: &str) -> Option<String> {
    sys::setting(key)
}
