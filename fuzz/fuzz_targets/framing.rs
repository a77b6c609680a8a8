//! A stream in pieces and at once: the framer must see the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::mqtt::Version;
use tidegate::mqtt::framing::{Framer, From};

fuzz_target!(|bytes: &[u8]| {
    let Some((&how, bytes)) = bytes.split_first() else {
        return;
    };
    let from = if how & 1 == 0 {
        From::Device
    } else {
        From::Broker
    };
    let version = Version::ALL[usize::from(how >> 1) % Version::ALL.len()];
    let step = 1 + usize::from(how >> 4);

    let mut whole = Framer::new(from, version);
    let at_once = whole.walk(bytes);
    assert!(at_once.pass <= bytes.len());
    assert_eq!(at_once.stop.is_none(), at_once.pass == bytes.len());

    let mut pieces = Framer::new(from, version);
    let mut pass = 0;
    let mut stop = None;
    for piece in bytes.chunks(step) {
        let walk = pieces.walk(piece);
        pass += walk.pass;
        stop = walk.stop;
        if stop.is_some() {
            break;
        }
    }
    assert_eq!((pass, stop), (at_once.pass, at_once.stop));
    assert_eq!(pieces.at_boundary(), whole.at_boundary());

    let again = whole.walk(&bytes[at_once.pass..]);
    assert_eq!(
        (again.pass, again.stop),
        (0, at_once.stop),
        "a stop is for good"
    );
});
