//! Whatever a device seals after its handshake: no panic, and no more memory than it sent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::tls::fuzzing::open_records;

fuzz_target!(|data: &[u8]| open_records(data));
