//! Drives the body of the same name with libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::bodies::interest(data));
