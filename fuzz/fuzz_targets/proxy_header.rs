//! Whatever a balancer sends first: what is read of it is the same however it comes in pieces, and is written as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::proxy_protocol::{Header, LONGEST_V2, Told, Version, read};

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes);
    match whole {
        Ok(None) => assert!(bytes.len() < LONGEST_V2),
        Ok(Some((header, length))) => {
            assert!(length <= bytes.len() && length <= LONGEST_V2);
            assert_eq!(
                read(&bytes[..length]),
                whole,
                "nothing behind it is looked at"
            );
            for end in 0..length {
                assert_eq!(
                    read(&bytes[..end]),
                    Ok(None),
                    "and its beginning waits for more"
                );
            }
            if let Header::Proxied { from, to } = header {
                for version in [Version::V1, Version::V2] {
                    let again = Told::ends(from, to).header(version);
                    assert_eq!(read(&again), Ok(Some((header, again.len()))));
                }
            }
        }
        Err(fault) => {
            // What is wrong stays wrong, whatever follows.
            let more = [bytes, b"\r\n\0\0"].concat();
            assert_eq!(read(&more), Err(fault));
        }
    }
});
