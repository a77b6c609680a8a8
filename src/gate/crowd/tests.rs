use std::mem::size_of;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::gate::testing::limits;

fn crowd(connections: u32, accepts: u32) -> Crowd {
    Crowd::new(&Limits {
        connections_per_address: connections,
        accepts_per_address: accepts,
        ..limits()
    })
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The address with this number, all of them in /64s of their own.
fn stranger(number: u64) -> IpAddr {
    Ipv6Addr::from_bits(u128::from(0x2001_0db8_0000_0000 + number) << 64 | 1).into()
}

/// How many entries there are, and for how many there is room.
fn entries(crowd: &Crowd) -> (usize, usize) {
    let shards = &crowd.inside.as_ref().expect("a limit").1.shards;
    let each = shards.iter().map(|open| {
        let open = lock(open);
        (open.len(), open.capacity())
    });
    each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

#[test]
fn an_ipv6_network_counts_as_one_address_and_an_ipv4_address_in_every_form() {
    for (one, other, same) in [
        ("192.0.2.7", "::ffff:192.0.2.7", true),
        ("192.0.2.7", "192.0.2.8", false),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
        ("2001:db8::1", "2001:db8:0:1::1", false),
        ("::1", "0.0.0.0", false),
        ("::1", "::2", true),
    ] {
        assert_eq!(origin(ip(one)) == origin(ip(other)), same, "{one} {other}");
    }
}

/// threats.md V1: each address has so many, others do not suffer, and a place that is given back is there again.
#[test]
fn an_address_has_so_many_connections() {
    let crowd = crowd(2, 0);
    let first = crowd.enter(ip("2001:db8::1")).expect("room");
    let _second = crowd.enter(ip("2001:db8::2")).expect("room");
    let refused = crowd.enter(ip("2001:db8::3")).expect_err("full");
    assert_eq!(refused, Refusal::AddressFull { most: 2 });
    let _other = crowd.enter(ip("2001:db8:0:1::1")).expect("its own room");
    drop(first);
    let _third = crowd.enter(ip("2001:db8::3")).expect("room again");
    assert!(crowd.enter(ip("2001:db8::1")).is_err());
}

/// Who is refused has taken nothing: no turn where it found no place, and no place where it came too fast.
#[test]
fn who_is_refused_has_taken_nothing() {
    let crowd = crowd(1, 2);
    let now = Instant::now();
    let enter = || crowd.enter_at(ip("192.0.2.7"), now);
    let first = enter().expect("room");
    for _ in 0..100 {
        let refused = enter().expect_err("no place");
        assert_eq!(refused, Refusal::AddressFull { most: 1 });
    }
    drop(first);
    drop(enter().expect("its second turn was left"));
    for _ in 0..100 {
        let refused = enter().expect_err("too fast");
        assert_eq!(refused, Refusal::AddressRate { most: 2 });
    }
    assert_eq!(entries(&crowd).0, 0);
}

#[test]
fn without_limits_nothing_is_kept() {
    let crowd = crowd(0, 0);
    assert!(crowd.inside.is_none() && crowd.pace.is_none());
    let places: Vec<_> = (0..1000).map(|_| crowd.enter(ip("192.0.2.7"))).collect();
    assert!(places.iter().all(Result::is_ok));
    assert_eq!(size_of::<Place>(), size_of::<usize>(), "of each connection");
}

/// threats.md V3: a million addresses that come and go leave nothing; those who are in have an entry each.
#[test]
fn a_million_addresses_leave_nothing_behind() {
    let crowd = crowd(1, 1);
    let pace = crowd.pace.as_ref().expect("a limit");
    let mut inside = Vec::new();
    for number in 0..1_000_000 {
        let place = crowd.enter(stranger(number)).expect("a new address");
        if number % 100 == 0 {
            inside.push(place);
        }
    }
    assert_eq!(entries(&crowd).0, inside.len());
    drop(inside);
    let (left, room) = entries(&crowd);
    assert_eq!(left, 0);
    assert!(room <= SHARDS * 128, "room for {room} is kept");
    // The other table does not grow: it is made whole.
    assert_eq!(pace.1.sets.len(), usize::try_from(SETS).expect("few"));
    assert!(pace.1.sets.len() * size_of::<Mutex<[Seen; WAYS]>>() < 1_200_000);
}

/// Other limits: who is there is counted on, as long as there is any limit.
#[test]
fn who_was_counted_is_counted_on_under_another_limit() {
    let strict = crowd(2, 0);
    let _open: Vec<_> = (0..2).map(|_| strict.enter(ip("192.0.2.7"))).collect();
    let limits = |most| Limits {
        connections_per_address: most,
        ..limits()
    };
    let wider = Crowd::succeeding(&limits(3), Some(&strict));
    let third = wider.enter(ip("192.0.2.7"));
    assert!(third.is_ok() && wider.enter(ip("192.0.2.7")).is_err());
    let narrower = Crowd::succeeding(&limits(1), Some(&wider));
    assert!(narrower.enter(ip("192.0.2.7")).is_err());
    let none = Crowd::succeeding(&limits(0), Some(&narrower));
    assert!(none.enter(ip("192.0.2.7")).is_ok());
}

/// Who is over its rate stays so, while many others come; and no newcomer is refused for what others did.
#[test]
fn a_crowd_hides_nobody_who_comes_too_fast() {
    let (pace, began) = (Pace::new(), Instant::now());
    let (bad, at) = (stranger(0), |ms| began + Duration::from_millis(ms));
    let came = |ms, times: u32| (0..times).filter(|_| pace.allows(bad, 100, at(ms))).count();
    assert_eq!(came(0, 1000), 100);
    for number in 1..40_000 {
        assert!(pace.allows(stranger(number), 100, at(0)), "{number}");
    }
    assert_eq!(came(0, 1000), 0, "it is remembered");
    assert_eq!(came(500, 1000), 50, "what half a second gives back");
    assert_eq!(came(10_000, 1000), 100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// As a bucket that is filled drop by drop would: never more in a second than twice the rate, never fewer than was asked
    /// for or is allowed.
    #[test]
    fn the_pace_is_that_of_a_bucket(rate in 1_u32..50, gaps in prop::collection::vec(0_u64..400, 1..300)) {
        let pace = Pace::new();
        let from = ip("198.51.100.1");
        let apart = 1_000_000_000 / u64::from(rate);
        let (mut ms, mut tokens, mut filled) = (0, u64::from(rate) * apart, 0);
        for gap in gaps {
            ms += gap;
            let now = ms * 1_000_000;
            tokens = (tokens + (now - filled)).min(u64::from(rate) * apart);
            filled = now;
            let expected = tokens >= apart;
            if expected {
                tokens -= apart;
            }
            prop_assert_eq!(pace.allows(from, rate, pace.began + Duration::from_millis(ms)), expected);
        }
    }
}
