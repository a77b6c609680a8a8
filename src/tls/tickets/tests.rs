#![allow(clippy::unwrap_used)] // a test that panics has failed

use super::*;
use crate::tls::testing::{Clock, NOW};
use crate::tls::witness::{Seen, witness};

const SESSION: &[u8] = b"what rustls wants to know of a session";

fn tickets_of(secret: &[u8], scope: Scope, clock: &Arc<Clock>) -> Tickets {
    Tickets::new(&Secret::new(secret.to_vec()), scope, clock.clone())
}

fn tickets(clock: &Arc<Clock>) -> Tickets {
    tickets_of(&[7; 32], Scope::new("devices"), clock)
}

/// T5: replicas that share the secret take each other's tickets, in the epoch of the ticket and the next, in no other.
#[test]
fn a_ticket_is_opened_by_every_replica_in_its_time() {
    let (one, other) = (tickets(&Clock::new()), tickets(&Clock::new()));
    let start = NOW - NOW % EPOCH;
    for issued in [start, start + EPOCH / 2, start + EPOCH - 1] {
        let ticket = one.seal(SESSION, issued, issued).unwrap();
        let opened = |at| other.open(&ticket, at);
        for at in [
            issued,
            start + EPOCH - 1,
            start + EPOCH,
            start + 2 * EPOCH - 1,
        ] {
            assert_eq!(opened(at), Some((SESSION.to_vec(), issued)), "{at}");
        }
        for at in [
            start - 1,
            start + 2 * EPOCH,
            start + 3 * EPOCH,
            0,
            -1,
            i64::MAX,
        ] {
            assert_eq!(opened(at), None, "{at}");
        }
        assert_eq!(opened(issued), one.open(&ticket, issued), "in any order");
    }
}

/// T5: a ticket is scoped to the listener, its policy and the secret.
#[test]
fn a_ticket_is_nothing_to_another_listener_policy_or_secret() {
    let scope = |listener: &str, demands: &[&str]| {
        let mut scope = Scope::new(listener);
        for demand in demands {
            scope.add(demand);
        }
        scope
    };
    let clock = Clock::new();
    let own = tickets_of(&[7; 32], scope("devices", &["a", "b"]), &clock);
    let ticket = own.seal(SESSION, NOW, NOW).unwrap();
    assert!(own.open(&ticket, NOW).is_some());
    for (secret, scope) in [
        ([8; 32], scope("devices", &["a", "b"])),
        ([7; 32], scope("others", &["a", "b"])),
        ([7; 32], scope("devices", &["a", "c"])),
        ([7; 32], scope("devices", &["a"])),
        ([7; 32], scope("devices", &["ab"])),
        ([7; 32], scope("devices", &["", "ab"])),
        ([7; 32], scope("devicesa", &["", "b"])),
    ] {
        assert_eq!(tickets_of(&secret, scope, &clock).open(&ticket, NOW), None);
    }
}

/// T2, T5: whatever is no ticket of ours, or was one before somebody touched it, opens nothing and breaks nothing.
#[test]
fn an_altered_ticket_opens_nothing() {
    let tickets = tickets(&Clock::new());
    let ticket = tickets.seal(SESSION, NOW, NOW).unwrap();
    for length in 0..ticket.len() {
        assert_eq!(tickets.open(&ticket[..length], NOW), None, "{length}");
    }
    for bit in 0..8 * ticket.len() {
        let mut altered = ticket.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(tickets.open(&altered, NOW), None, "bit {bit}");
    }
    let longer = [&ticket[..], &[0]].concat();
    assert_eq!(tickets.open(&longer, NOW), None);
    assert_eq!(tickets.open(&[0xff; 300], NOW), None);
}

/// T5: resumption does not go on for ever.
#[test]
fn no_session_is_resumed_a_week_after_its_full_handshake() {
    let tickets = tickets(&Clock::new());
    for (age, opens) in [(0, true), (LONGEST, true), (LONGEST + 1, false)] {
        let ticket = tickets.seal(SESSION, NOW - age, NOW).unwrap();
        assert_eq!(tickets.open(&ticket, NOW).is_some(), opens, "{age}");
    }
}

/// T5: the week begins with the full handshake, whichever ticket of it was opened last.
#[test]
fn a_ticket_of_a_resumed_session_is_as_old_as_its_full_handshake() {
    let clock = Clock::new();
    let tickets = tickets(&clock);
    let mut ticket = tickets.encrypt(SESSION).unwrap();
    let hours = |count: i64| count * 3600;
    for at in (0..hours(7 * 24 + 1)).step_by(usize::try_from(hours(10)).unwrap()) {
        clock.set(NOW + at);
        let mut seen = Seen::default();
        ticket = witness(&mut seen, || {
            assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(SESSION), "{at}");
            tickets.encrypt(SESSION).unwrap()
        });
        assert_eq!(seen.began, Some(NOW));
    }
    clock.set(NOW + hours(7 * 24 + 1));
    assert_eq!(tickets.decrypt(&ticket), None);
}

/// T2: a ClientHello full of tickets costs no more than a few.
#[test]
fn only_so_many_tickets_of_a_device_are_tried() {
    let tickets = tickets(&Clock::new());
    let good = tickets.encrypt(SESSION).unwrap();
    let tried = |junk: u8| {
        witness(&mut Seen::default(), || {
            for _ in 0..junk {
                assert_eq!(tickets.decrypt(&good[1..]), None);
            }
            tickets.decrypt(&good)
        })
    };
    assert!(tried(MOST_TRIED - 1).is_some());
    assert!(tried(MOST_TRIED).is_none());
    assert!(tried(u8::MAX).is_none());
}

#[test]
fn a_session_with_a_large_chain_gets_no_ticket() {
    let tickets = tickets(&Clock::new());
    assert!(tickets.encrypt(&[0; MOST_BYTES]).is_some());
    assert!(tickets.encrypt(&[0; MOST_BYTES + 1]).is_none());
}

/// K2: neither keys nor secrets print; and two tickets of one session have nothing in common.
#[test]
fn tickets_tell_nothing() {
    let tickets = tickets(&Clock::new());
    assert_eq!(format!("{tickets:?}"), "Tickets(…)");
    let ticket = || tickets.encrypt(SESSION).unwrap();
    let (one, other) = (ticket(), ticket());
    assert_eq!(
        one[..4],
        other[..4],
        "the epoch of the key is for all to see"
    );
    let same = one[4..].iter().zip(&other[4..]).filter(|(a, b)| a == b);
    assert!(same.count() < one.len() / 4);
    assert!(
        !one.windows(6)
            .any(|bytes| SESSION.windows(6).any(|said| said == bytes))
    );
}

/// The keys change with the wall clock alone, which may be set back.
#[test]
fn keys_follow_the_clock_in_both_directions() {
    let clock = Clock::new();
    let tickets = tickets(&clock);
    let first = tickets.encrypt(SESSION).unwrap();
    clock.set(NOW + 5 * EPOCH);
    assert_eq!(tickets.decrypt(&first), None);
    let later = tickets.encrypt(SESSION).unwrap();
    clock.set(NOW);
    assert!(tickets.decrypt(&first).is_some());
    assert_eq!(tickets.decrypt(&later), None, "of a time to come");
}

#[test]
fn without_a_file_all_listeners_of_a_start_have_one_secret() {
    assert!(secret_of_this_start() == secret_of_this_start());
    assert_eq!(secret_of_this_start().reveal().len(), LEAST_SECRET);
}
