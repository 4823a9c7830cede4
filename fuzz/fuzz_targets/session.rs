//! Arbitrary bytes as the story of a session: calls of its driver and its program, and packets of a broker.
#![no_main]

use libfuzzer_sys::fuzz_target;
use luamqtt_native_fuzz::check_session;

fuzz_target!(|data: &[u8]| check_session(data));
