//! Which endpoint a connection goes to.

use std::cmp::Reverse;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use super::Balance;
use super::endpoint::Endpoint;

/// What a choice among endpoints hangs on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    balance: Balance,
    /// Where the round begins; another one for each connection.
    turn: usize,
    /// Of the device; 0 where its endpoint does not hang on it.
    device: u64,
}

/// How much an endpoint is wanted, best first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Rank {
    Ready,
    /// It came back a moment ago, and this turn is not its own.
    Warming,
    /// It came back, and as many as it may have are under way.
    Crowded,
    /// It turned away too many devices in a row of late.
    Sick,
    /// It is new, or answered neither probe nor device of late.
    Doubtful,
    /// Likewise, and as many as may dial it.
    DoubtfulCrowded,
}

impl Choice {
    pub(super) fn new(balance: Balance, turn: usize, device: &str) -> Self {
        let device = match balance {
            Balance::Device => hash(device.as_bytes()),
            Balance::RoundRobin | Balance::LeastConnections => 0,
        };
        Self {
            balance,
            turn,
            device,
        }
    }

    /// The best of `endpoints` that was not `tried`. One that is silent is none: it would take the CONNECT and not answer. Nor is
    /// one for which a moment ago there was no port.
    pub(super) fn best<'e>(
        &self,
        endpoints: &'e [Arc<Endpoint>],
        tried: &[Arc<Endpoint>],
    ) -> Option<&'e Arc<Endpoint>> {
        let (before, from) = endpoints.split_at(self.turn.checked_rem(endpoints.len())?);
        let left = from.iter().chain(before).filter(|endpoint| {
            let standing = &endpoint.standing;
            let useless = standing.is_silent() || standing.lacks_ports();
            !useless && !tried.iter().any(|one| Arc::ptr_eq(one, endpoint))
        });
        left.min_by_key(|endpoint| (self.rank(endpoint), self.key(endpoint))) // the first of those alike
    }

    fn rank(&self, endpoint: &Endpoint) -> Rank {
        let standing = &endpoint.standing;
        if standing.is_doubtful() {
            if standing.pace.has_room() {
                Rank::Doubtful
            } else {
                Rank::DoubtfulCrowded
            }
        } else if standing.is_sick() {
            Rank::Sick
        } else if self.balance == Balance::Device {
            Rank::Ready // its devices are no more than its own share, and wait for it rather than leave it
        } else if !standing.pace.has_room() {
            Rank::Crowded
        } else if u16::from(golden(self.turn)) < standing.share() {
            Rank::Ready
        } else {
            Rank::Warming
        }
    }

    fn key(&self, endpoint: &Endpoint) -> Reverse<u64> {
        Reverse(match self.balance {
            Balance::RoundRobin => 0,
            Balance::LeastConnections => u64::MAX - u64::from(endpoint.open()),
            Balance::Device => mix(self.device ^ endpoint.hash),
        })
    }
}

/// The same number for the same bytes in every process, version and machine: gates must agree (so not the hasher of std).
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let digest = digest(&SHA256, bytes);
    let first = digest.as_ref().first_chunk::<8>();
    u64::from_be_bytes(*first.expect("SHA-256 has 32 bytes"))
}

/// A device's weight at an endpoint (rendezvous hashing, Thaler and Ravishankar 1998): it goes where it weighs most, so an endpoint
/// that leaves moves no other's devices. The mixing is splitmix64's.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number from 0 to 255 for each turn: of any few turns in a row, the right part is below any bound (Weyl's sequence of the golden
/// ratio).
fn golden(turn: usize) -> u8 {
    (turn as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .to_be_bytes()[0]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::endpoint::tests::{endpoint, endpoints};
    use super::*;

    fn chosen(choice: Choice, endpoints: &[Arc<Endpoint>]) -> u16 {
        let best = choice.best(endpoints, &[]).expect("one is left");
        best.port().expect("TCP")
    }

    fn homes(endpoints: &[Arc<Endpoint>], devices: u32) -> BTreeMap<String, u16> {
        let device = |number| format!("meter-{number}");
        (0..devices)
            .map(|number| {
                let device = device(number);
                let choice = Choice::new(Balance::Device, number as usize, &device);
                let home = chosen(choice, endpoints);
                (device, home)
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// When an endpoint leaves, its devices move, and nobody else's; when one comes, none moves but to it.
        #[test]
        fn only_the_devices_of_the_one_that_left_move(
            ports in prop::collection::btree_set(1_u16.., 2..9),
            gone in any::<prop::sample::Index>(),
        ) {
            let ports: Vec<u16> = ports.into_iter().collect();
            let all = endpoints(&ports);
            let gone = gone.get(&ports);
            let left: Vec<_> = all.iter().filter(|one| one.port() != Some(*gone)).cloned().collect();
            let (before, after) = (homes(&all, 200), homes(&left, 200));
            for (device, home) in before {
                prop_assert!(home == *gone || after[&device] == home, "{device} left {home}");
            }
        }
    }

    /// Whatever the order in which a gate knows the endpoints, and over processes and versions: these homes never change.
    #[test]
    fn every_gate_gives_a_device_the_same_endpoint() {
        let homes_of = |ports: &[u16]| homes(&endpoints(ports), 6).into_values().collect();
        let known: Vec<u16> = homes_of(&[1, 2, 3]);
        assert_eq!(known, homes_of(&[3, 1, 2]) as Vec<u16>);
        assert_eq!(known, KNOWN);
    }

    /// Made once; a change of it moves every fleet.
    const KNOWN: [u16; 6] = [1, 2, 1, 3, 3, 3];

    #[test]
    fn devices_spread_over_the_endpoints() {
        let mut count = BTreeMap::new();
        for home in homes(&endpoints(&[1, 2, 3]), 3000).into_values() {
            *count.entry(home).or_insert(0) += 1;
        }
        assert!(count.values().all(|n| (850..1150).contains(n)), "{count:?}");
    }

    #[test]
    fn in_turn_each_has_its_turn_and_the_fewest_connections_go_first() {
        let all = endpoints(&[1, 2, 3]);
        let round = |turn| chosen(Choice::new(Balance::RoundRobin, turn, "x"), &all);
        assert_eq!([0, 1, 2, 3].map(round), [1, 2, 3, 1]);
        let _held = [&all[0], &all[0], &all[1]].map(|one| one.clone().take());
        let least = |turn| chosen(Choice::new(Balance::LeastConnections, turn, "x"), &all);
        assert_eq!([0, 1, 2, 3].map(least), [3; 4]);
    }

    /// One that was away is not sent everybody at once, though it has the fewest connections by far.
    #[tokio::test(start_paused = true)]
    async fn one_that_came_back_takes_a_share_that_grows() {
        let all = endpoints(&[1, 2]);
        let _busy: Vec<_> = (0..100).map(|_| all[0].clone().take()).collect();
        all[1].standing.fell(false);
        assert!(all[1].standing.answers());
        let share = || {
            let least = |turn| chosen(Choice::new(Balance::LeastConnections, turn, "x"), &all);
            (0..1000).filter(|turn| least(*turn) == 2).count()
        };
        let mut shares = Vec::new();
        for _ in 0..5 {
            shares.push(share());
            tokio::time::advance(std::time::Duration::from_millis(2501)).await;
        }
        assert!((50..150).contains(&shares[0]), "{shares:?}");
        assert!(shares.is_sorted() && shares[2] < 700, "{shares:?}");
        assert_eq!(shares[4], 1000, "{shares:?}");
    }

    #[test]
    fn who_fell_comes_last_and_who_fell_silent_not_at_all() {
        let all = endpoints(&[1, 2]);
        let least = || Choice::new(Balance::LeastConnections, 0, "x");
        all[0].standing.fell(false);
        assert_eq!(chosen(least(), &all), 2);
        assert_eq!(
            least().best(&all, &all[1..]).and_then(|one| one.port()),
            Some(1)
        );
        all[0].standing.fell(true);
        assert!(least().best(&all, &all[1..]).is_none());
        assert!(least().best(&[], &[]).is_none());
        let one = [endpoint(7)];
        assert_eq!(chosen(least(), &one), 7);
    }
}
