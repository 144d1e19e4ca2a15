//! From the root of the crate, the shipped files as a second corpus: `cargo fuzz run config fuzz/corpus/config deploy`.

#![no_main]

#[path = "../properties/config.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
