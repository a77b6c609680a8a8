//! Whatever a broker answers: the first byte says to which version, the rest is the answer. DISCONNECT is tried too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::mqtt::connack::{Connack, measure};
use tidegate::mqtt::{Version, disconnect};

const CAP: usize = 64 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let Some((&version, bytes)) = bytes.split_first() else {
        return;
    };
    let version = Version::ALL[usize::from(version) % Version::ALL.len()];
    if let Ok(Some(length)) = disconnect::measure(bytes, CAP) {
        if let Ok(shorter) = disconnect::without_server_reference(&bytes[..length]) {
            assert!(shorter.len() <= length);
            assert_eq!(
                disconnect::without_server_reference(&shorter).as_ref(),
                Ok(&shorter)
            );
        }
        return;
    }
    let Ok(Some(length)) = measure(bytes, CAP) else {
        return;
    };
    assert!(length <= CAP && length <= bytes.len());
    let packet = &bytes[..length];
    let Ok(connack) = Connack::decode(packet, version) else {
        return;
    };
    let written = connack.encode(version);
    assert_eq!(Connack::decode(&written, version).as_ref(), Ok(&connack));
    if version == Version::V5 {
        assert_eq!(written, packet, "MQTT 5.0 has one spelling");
    }
    assert!(!connack.session_present || connack.code == 0);
    assert!(connack.properties.len() * 2 <= packet.len());
});
