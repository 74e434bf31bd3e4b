#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kubebrain_fuzz::snapshot(data));
