//! How many there are from one address, and how fast they come: looked at before any cryptography (threats.md V1).
//!
//! An IPv4 address stands for itself, an IPv6 address for its /64: whoever has one address of it has all of them.
//! What is kept is bounded, whoever comes: an address is counted while it has open connections, of which there are
//! `limits.connections` at most; how fast addresses came is kept of [`SETS`] × [`WAYS`] of them.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::rules::reason::Refusal;

use super::Limits;

/// Addresses with open connections are spread over so many tables, so that workers seldom wait for each other.
const SHARDS: usize = 64;

/// Addresses whose pace is known: so many sets of [`WAYS`] each, 65 536 in all and some 1.1 MB.
const SETS: u64 = 8192;
const WAYS: usize = 8;

/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// What each address may have; shared by all workers.
#[derive(Debug)]
pub(crate) struct Crowd {
    /// How many, and who is there; `None`: no limit, and nothing is counted.
    inside: Option<(u32, Arc<Inside>)>,
    /// How many a second, and who came; `None`: no limit, and nothing is counted.
    pace: Option<(u32, Arc<Pace>)>,
}

impl Crowd {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self::succeeding(limits, None)
    }

    /// The same after another one: where both have a limit, who was counted is counted on.
    pub(crate) fn succeeding(limits: &Limits, old: Option<&Self>) -> Self {
        let limit = |most: u32| (most > 0).then_some(most);
        let inside = old.and_then(|old| old.inside.as_ref());
        let inside =
            || inside.map_or_else(|| Arc::new(Inside::new()), |(_, inside)| inside.clone());
        let pace = old.and_then(|old| old.pace.as_ref());
        let pace = || pace.map_or_else(|| Arc::new(Pace::new()), |(_, pace)| pace.clone());
        Self {
            inside: limit(limits.connections_per_address).map(|most| (most, inside())),
            pace: limit(limits.accepts_per_address).map(|most| (most, pace())),
        }
    }

    /// Takes a place for one connection from `ip`, the device's own address where a balancer told it. The place is held
    /// until the connection has closed.
    ///
    /// # Errors
    /// The [`Refusal`], when others from there have all places, or came too fast; then nothing is held.
    pub(crate) fn enter(&self, ip: IpAddr) -> Result<Place, Refusal> {
        self.enter_at(ip, Instant::now())
    }

    fn enter_at(&self, ip: IpAddr, now: Instant) -> Result<Place, Refusal> {
        let origin = origin(ip);
        // The place first: who finds none has taken nothing of its pace, and who comes too fast gives the place back.
        let place = match &self.inside {
            None => Place::uncounted(),
            Some((most, inside)) => inside.enter(origin, *most)?,
        };
        match &self.pace {
            Some((most, pace)) if !pace.allows(origin, *most, now) => {
                Err(Refusal::AddressRate { most: *most })
            }
            _ => Ok(place),
        }
    }
}

/// What is counted as one address.
fn origin(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// One of the connections that an address may have, until it is dropped. Holds nothing where there is no limit.
#[derive(Debug)]
#[must_use = "dropping the place gives it back"]
pub(crate) struct Place {
    /// In a box, since most gates have no such limit and every connection has this.
    _taken: Option<Box<Taken>>,
}

impl Place {
    /// The place of whom no limit of addresses holds.
    pub(crate) fn uncounted() -> Self {
        Self { _taken: None }
    }
}

#[derive(Debug)]
struct Taken {
    inside: Arc<Inside>,
    origin: IpAddr,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.inside.leave(self.origin);
    }
}

/// `limits.connections_per_address`: how many are open, by address. Addresses that have none are not in it.
#[derive(Debug)]
struct Inside {
    /// With a key of its own: nobody chooses who shares a shard.
    spread: RandomState,
    shards: Box<[Mutex<HashMap<IpAddr, u32>>]>,
}

impl Inside {
    fn new() -> Self {
        Self {
            spread: RandomState::new(),
            shards: std::iter::repeat_with(Mutex::default)
                .take(SHARDS)
                .collect(),
        }
    }

    fn enter(self: &Arc<Self>, origin: IpAddr, most: u32) -> Result<Place, Refusal> {
        let mut open = self.shard(origin);
        let count = open.entry(origin).or_default();
        // Who is refused has an entry already: `most` is not 0.
        if *count >= most {
            return Err(Refusal::AddressFull { most });
        }
        *count += 1;
        let taken = Taken {
            inside: self.clone(),
            origin,
        };
        Ok(Place {
            _taken: Some(Box::new(taken)),
        })
    }

    fn leave(&self, origin: IpAddr) {
        let mut open = self.shard(origin);
        let Some(count) = open.get_mut(&origin) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            open.remove(&origin);
            // What a storm needed is given back after it.
            if open.capacity() > 64 && open.len() < open.capacity() / 8 {
                let twice = open.len() * 2;
                open.shrink_to(twice);
            }
        }
    }

    fn shard(&self, origin: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        lock(&self.shards[place(&self.spread, origin, SHARDS as u64).1])
    }
}

/// `limits.accepts_per_address`: a token bucket for each address, which holds what comes in one second.
///
/// The table is of a fixed size. An address that is not in it takes the slot of the one that has been even for longest, or
/// will be first; who is even loses nothing by it. Were more addresses than slots to come within a second, some would be
/// forgotten too soon and let in; none is ever refused for what another did.
#[derive(Debug)]
struct Pace {
    began: Instant,
    /// With a key of its own: nobody chooses whom to push out.
    spread: RandomState,
    sets: Box<[Mutex<[Seen; WAYS]>]>,
}

/// One address, by a keyed hash of 64 bits.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    who: u64,
    /// When all it took will have been given back, in nanoseconds since `began`.
    even: u64,
}

impl Pace {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            spread: RandomState::new(),
            sets: (0..SETS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Whether one more may come from `origin` at `now`, where so many may a second, which is not 0. Those who may not take nothing, and so do not put off when they may.
    fn allows(&self, origin: IpAddr, per_second: u32, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.began).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX); // in 584 years
        let apart = SECOND / u64::from(per_second);
        let (who, set) = place(&self.spread, origin, SETS);
        let mut set = lock(&self.sets[set]);
        let known = set.iter().position(|seen| seen.who == who);
        let coldest = || (0..WAYS).min_by_key(|&way| set[way].even);
        let way = known.or_else(coldest).expect("a set is not empty");
        let even = match known {
            Some(way) => set[way].even.max(now),
            None => now,
        };
        let allowed = even - now <= apart * u64::from(per_second - 1);
        if allowed {
            set[way] = Seen {
                who,
                even: even + apart,
            };
        }
        allowed
    }
}

/// The keyed hash of `origin`, and its place among `places`.
fn place(spread: &RandomState, origin: IpAddr, places: u64) -> (u64, usize) {
    let hash = spread.hash_one(origin);
    let place = usize::try_from(hash % places).expect("fewer than there are addresses in memory");
    (hash, place)
}

/// Nothing panics while it holds one of these; if it did, counts would still be counts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
