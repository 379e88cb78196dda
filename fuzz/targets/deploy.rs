#![no_main]

#[allow(dead_code, reason = "each target runs one of them")]
#[path = "../bodies/deploying.rs"]
mod deploying;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| deploying::deploy(bytes));
