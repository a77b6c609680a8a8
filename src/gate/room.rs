//! How many connections there are file descriptors for (threats.md V3).
//!
//! Each takes two once a broker has it. Others need some, too: whoever asks whether the gate lives would end it, and every
//! connection with it, if silent devices could take the last one.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use rustix::process::{Resource, getrlimit};

/// Kept for others than devices, where there are enough: 64 operators, probes and look-ups of brokers, the registry, files.
const KEPT: u64 = 128;

/// What a worker's runtime takes.
const A_WORKER: u64 = 4;

/// Places for open connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Room {
    /// How many.
    pub(crate) places: u32,
    /// Fewer than `limits.connections`, for want of descriptors.
    pub(crate) is_short: bool,
    /// How many there are descriptors for.
    there_are: u32,
}

impl Room {
    /// As many as `most`, or as this process has descriptors for, of which `workers` that are not there yet will take some. To be asked
    /// once everything else is open.
    pub(crate) fn measure(most: u32, workers: usize) -> Self {
        let Some(allowed) = getrlimit(Resource::Nofile).current else {
            return Self::of(most, u32::MAX);
        };
        let workers = A_WORKER * u64::try_from(workers).unwrap_or(u64::MAX);
        let there_are = places(allowed, in_use(allowed).saturating_add(workers));
        let room = Self::of(most, there_are);
        room.tell(most);
        room
    }

    /// Tells of places that are wanting of `most`.
    fn tell(self, most: u32) {
        if !self.is_short {
            return;
        }
        let Self { there_are, .. } = self;
        let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        tracing::info!(
            event = "few_descriptors",
            "{there_are} connections at most, not {most} (limits.connections): this process may have {allowed} file descriptors, a \
             connection takes two, and some are kept for operators and files; raise the hard limit (LimitNOFILE=, ulimit -Hn) for more"
        );
    }

    pub(crate) fn of(most: u32, there_are: u32) -> Self {
        Self {
            places: most.min(there_are),
            is_short: there_are < most,
            there_are,
        }
    }

    /// The same for another limit: what is open by now is no news of what there are descriptors for.
    fn with(self, most: u32) -> Self {
        Self::of(most, self.there_are)
    }
}

/// The places for open connections, taken one by one; how many there are may change meanwhile.
#[derive(Debug)]
pub(crate) struct Places {
    open: AtomicU32,
    most: AtomicU32,
    is_short: AtomicBool,
    room: Room,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Places>);

impl Places {
    pub(crate) fn new(room: Room) -> Self {
        Self {
            open: AtomicU32::new(0),
            most: AtomicU32::new(room.places),
            is_short: AtomicBool::new(room.is_short),
            room,
        }
    }

    /// Takes one; `None`: all are taken.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Permit> {
        let most = self.most.load(Relaxed);
        let one_more = |open: u32| (open < most).then(|| open + 1);
        let taken = self.open.fetch_update(Relaxed, Relaxed, one_more);
        taken.ok().map(|_| Permit(self.clone()))
    }

    /// From now on there are so many, as far as there are descriptors. Who has one keeps it.
    pub(crate) fn change(&self, most: u32) {
        let room = self.room.with(most);
        self.most.store(room.places, Relaxed);
        if !self.is_short.swap(room.is_short, Relaxed) {
            room.tell(most);
        }
    }

    /// How many are taken.
    pub(crate) fn open(&self) -> u32 {
        self.open.load(Relaxed)
    }

    /// How many there are.
    pub(crate) fn most(&self) -> u32 {
        self.most.load(Relaxed)
    }

    /// Fewer than `limits.connections`, for want of descriptors.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short.load(Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// How many connections a process has room for that may have `allowed` descriptors, of which `used` are taken; at least one. Where there
/// are few, others than devices are kept half of what is left.
pub fn places(allowed: u64, used: u64) -> u32 {
    let left = allowed.saturating_sub(used);
    let places = (left - KEPT.min(left / 2)) / 2;
    u32::try_from(places).unwrap_or(u32::MAX).max(1)
}

/// How many are open of those that a limit of `allowed` counts; inherited ones may lie beyond.
fn in_use(allowed: u64) -> u64 {
    /// Where it cannot be seen.
    const SOME: u64 = 64;
    let Ok(open) = fs::read_dir("/proc/self/fd") else {
        return SOME;
    };
    let numbers = open.filter_map(|one| one.ok()?.file_name().to_str()?.parse::<u64>().ok());
    let count = numbers.filter(|number| *number < allowed).count();
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_takes_two_and_others_keep_some() {
        assert_eq!(places(20_000, 72), 9_900);
        assert_eq!(places(1024, 24), 436);
        assert_eq!(places(64, 24), 10); // half of it
        assert_eq!((places(64, 64), places(0, 24)), (1, 1));
        assert_eq!(places(u64::MAX, 24), u32::MAX);
    }

    #[test]
    fn how_many_there_are_changes_under_those_who_are_in() {
        let places = Arc::new(Places::new(Room::of(2, 3)));
        let mut inside: Vec<_> = std::iter::from_fn(|| places.take()).collect();
        assert_eq!((inside.len(), places.is_short()), (2, false));
        places.change(100);
        inside.extend(std::iter::from_fn(|| places.take()));
        assert_eq!(
            (inside.len(), places.most(), places.is_short()),
            (3, 3, true)
        );
        places.change(1);
        assert!(places.take().is_none() && places.open() == 3);
        inside.truncate(1);
        assert!(places.take().is_none());
        inside.clear();
        assert!(places.take().is_some() && places.open() == 0);
    }

    #[test]
    fn the_lower_number_counts() {
        let short = Room::of(100_000, 9_900);
        assert_eq!((short.places, short.is_short), (9_900, true));
        let enough = Room::of(500, 9_900);
        assert_eq!((enough.places, enough.is_short), (500, false));
    }
}
