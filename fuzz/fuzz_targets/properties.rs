//! The first byte says where the list stands, the rest is the list.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::mqtt::properties::{Id, Place, Properties};

fuzz_target!(|bytes: &[u8]| {
    let Some((&place, bytes)) = bytes.split_first() else {
        return;
    };
    let places = [
        Place::Connect,
        Place::Will,
        Place::Connack,
        Place::Disconnect,
    ];
    let place = places[usize::from(place) % places.len()];
    let Ok(mut list) = Properties::decode(bytes, place) else {
        return;
    };
    assert_eq!(list.encode().expect("what was read can be written"), bytes);
    assert!(
        list.len() * 2 <= bytes.len(),
        "memory is in proportion to the bytes"
    );
    for &id in Id::ALL {
        let count = list.iter().filter(|property| property.id == id).count();
        assert!(count == 0 || id.belongs(place));
        assert!(count <= 1 || id == Id::UserProperty);
    }
    let users: Vec<String> = list.users().map(|(name, _)| name.to_owned()).collect();
    for name in &users {
        list.remove_user(name);
    }
    assert_eq!(list.users().count(), 0);
    assert_eq!(list.remove(Id::UserProperty), None);
});
