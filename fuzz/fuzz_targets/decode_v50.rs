//! Arbitrary bytes as a stream of MQTT 5.0 packets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use luamqtt_native_fuzz::{check_stream, codec::Version};

fuzz_target!(|data: &[u8]| check_stream(Version::V50, data));
