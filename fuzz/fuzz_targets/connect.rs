//! Whatever a device sends first: no panic, an answer where one is due, and what is read is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::mqtt::Version;
use tidegate::mqtt::connect::{Connect, measure};

const CAP: usize = 16 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let whole = match measure(bytes, CAP) {
        Ok(Some(length)) => {
            assert!(length <= CAP && length <= bytes.len());
            length
        }
        Ok(None) => {
            assert!(bytes.len() < CAP, "it must not wait past the cap");
            return;
        }
        Err(fault) => {
            assert_eq!(
                Connect::decode(bytes).ok(),
                None,
                "measure refuses what decode takes: {fault}"
            );
            return;
        }
    };
    let packet = &bytes[..whole];
    match Connect::decode(packet) {
        Ok(connect) => {
            let written = connect.encode().expect("what was read can be written");
            assert_eq!(Connect::decode(&written).as_ref(), Ok(&connect));
            assert!(written.len() <= packet.len(), "canonical is never longer");
            if connect.version == Version::V5 {
                assert_eq!(written, packet, "MQTT 5.0 has one spelling");
            }
            // Bounded memory: every text and every property was in the packet.
            let properties = connect.properties.len()
                + connect
                    .will
                    .as_ref()
                    .map_or(0, |will| will.properties.len());
            assert!(properties * 2 <= packet.len());
        }
        Err(fault) => {
            // A closed door or a CONNACK that the version knows.
            match fault.answer() {
                None => {}
                Some((Version::V5, code)) => assert!(code >= 0x80),
                Some((_, code)) => assert!((1..=2).contains(&code)),
            }
            assert!(!fault.to_string().is_empty());
        }
    }
});
