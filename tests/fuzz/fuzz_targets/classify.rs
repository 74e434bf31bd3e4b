#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kubebrain_fuzz::classify(data));
