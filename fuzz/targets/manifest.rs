#![no_main]

#[allow(dead_code, reason = "each target runs one of them")]
#[path = "../bodies/reading.rs"]
mod reading;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reading::manifest(bytes));
