use super::*;

/// A ClientHello with these extensions, in one record.
fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([2, 9, 9]); // session id
    body.extend([0, 2, 0x13, 1]); // cipher suites
    body.extend([1, 0]); // compression methods
    let mut all = Vec::new();
    for (kind, content) in extensions {
        all.extend(kind.to_be_bytes());
        all.extend(counted(content));
    }
    body.extend(counted(&all));
    let mut message = vec![1, 0];
    message.extend(counted(&body));
    let mut record = vec![22, 3, 1];
    record.extend(counted(&message));
    record
}

/// With its length in front, in two bytes.
fn counted(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("short");
    [&length.to_be_bytes(), bytes].concat()
}

/// The content of `pre_shared_key`: identities with their ages, and binders.
fn offered(tickets: &[&[u8]]) -> Vec<u8> {
    let identity = |ticket: &&[u8]| [counted(ticket), vec![0, 0, 0, 1]].concat();
    let identities: Vec<u8> = tickets.iter().flat_map(identity).collect();
    [counted(&identities), counted(&[0x20; 33])].concat()
}

#[test]
fn a_ticket_of_either_version_is_found() {
    assert_eq!(ticket(&hello(&[(35, b"old")])), Some(&b"old"[..]));
    let new = offered(&[b"new", b"older"]);
    let modes = (45, &b"\x02\x00\x01"[..]);
    let whole = hello(&[(0, b"x"), modes, (41, &new)]);
    assert_eq!(ticket(&whole), Some(&b"new"[..]));
    let both = hello(&[(35, b"old"), modes, (41, &new)]);
    assert_eq!(ticket(&both), Some(&b"new"[..]));
}

#[test]
fn without_a_ticket_there_is_none() {
    assert_eq!(ticket(&hello(&[])), None);
    assert_eq!(ticket(&hello(&[(35, b""), (43, b"\x02\x03\x04")])), None); // it would like one
    let new = offered(&[b"new"]);
    assert_eq!(ticket(&hello(&[(45, b"\x01\x00"), (41, &new)])), None); // without a new key exchange
    assert_eq!(ticket(&hello(&[(41, &new)])), None);
}

#[test]
fn what_is_cut_short_or_garbled_shows_no_ticket_that_is_not_there() {
    let whole = hello(&[(45, b"\x01\x01"), (41, &offered(&[b"new"]))]);
    for length in 0..whole.len() {
        assert_eq!(ticket(&whole[..length]), None, "{length}");
    }
    for place in 0..whole.len() {
        let mut garbled = whole.clone();
        garbled[place] ^= 0xff;
        let _ = ticket(&garbled); // it does not panic
    }
}
