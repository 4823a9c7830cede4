//! Arbitrary bytes as the files of a store, and as what is done with it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use luamqtt_native_fuzz::check_store;

fuzz_target!(|data: &[u8]| check_store(data));
