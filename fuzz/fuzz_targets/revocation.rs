//! Revocation lists: whatever the bytes, reading them ends, and a list is exactly its bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::tls::fuzzing::is_revocation_list;

fuzz_target!(|der: &[u8]| {
    if is_revocation_list(der) {
        assert!(!is_revocation_list(&[der, &[0]].concat()), "nothing may follow it");
        assert!(!is_revocation_list(&der[..der.len() - 1]), "nothing may be missing");
    }
});
