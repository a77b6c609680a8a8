//! What processes spent: CPU time and memory, by what the kernel says in /proc.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::time::Duration;

use super::Fault;
use super::report::ServerCost;

/// Processes at one moment.
#[derive(Debug, Default)]
pub(super) struct Snapshot(BTreeMap<u32, Process>);

#[derive(Debug, Default)]
struct Process {
    /// The CPU time of each thread that lives, in nanoseconds.
    threads: HashMap<u32, u64>,
    /// The CPU time of all threads, those that ended too, in ticks of the clock.
    ticks: u64,
    /// The CPU time of all children that ended and were waited for, and of theirs, in ticks of the clock.
    reaped: u64,
    /// Its parent.
    parent: u32,
    /// Resident memory, in KiB.
    resident: u64,
}

/// Sees that each of `pids` is there: the cost of what is not there would be told as none.
///
/// # Errors
/// [`Fault::Asked`], for the first that is not.
pub(super) fn are_there(pids: &[u32]) -> Result<(), Fault> {
    let absent = pids.iter().find(|pid| one(**pid).is_none());
    absent.map_or(Ok(()), |pid| {
        Err(Fault::Asked(format!(
            "--pid {pid}: there is no such process on this host, or /proc hides it; name one that runs, as $(pidof tidegate)"
        )))
    })
}

/// Looks at `pids` and all that descend from them. Whoever is not there (any more) is left out.
pub(super) fn look(pids: &[u32]) -> Snapshot {
    let found = family(pids, &parents());
    let looked = found.into_iter().filter_map(|pid| Some((pid, one(pid)?)));
    Snapshot(looked.collect())
}

impl Snapshot {
    /// Whether that process is in it.
    pub(super) fn has(&self, pid: u32) -> bool {
        self.0.contains_key(&pid)
    }

    /// The resident memory of all together, in KiB.
    pub(super) fn resident(&self) -> u64 {
        self.0.values().map(|process| process.resident).sum()
    }

    /// The CPU time that was spent since `before`. A process that began since counts whole; one that ended, whether it
    /// was seen before or not, by what its parent has from waiting for it.
    pub(super) fn cpu_since(&self, before: &Self) -> Duration {
        let nothing = Process::default();
        let (mut nanos, mut reaped) = (0, 0);
        for (pid, now) in &self.0 {
            let then = before.0.get(pid).unwrap_or(&nothing);
            nanos += now.since(then);
            reaped += now.reaped.saturating_sub(then.reaped);
        }
        // Parents are told of whole lives: what was spent before the run is not the run's.
        let ended = before
            .0
            .iter()
            .filter(|(pid, _)| self.inherits(before, **pid));
        let earlier: u64 = ended.map(|(_, then)| then.ticks + then.reaped).sum();
        Duration::from_nanos(nanos + reaped.saturating_sub(earlier) * tick_nanos())
    }

    /// Whether `pid` ended since `before`, and somebody it descends from is still here.
    fn inherits(&self, before: &Self, pid: u32) -> bool {
        let mut at = pid;
        while let (false, Some(then)) = (self.has(at), before.0.get(&at)) {
            at = then.parent;
        }
        at != pid && self.has(at)
    }

    /// What was spent since `before`, and a sentence for each process that ended since and left nobody to tell.
    pub(super) fn cost_since(&self, before: &Self) -> (ServerCost, Vec<String>) {
        let cost = ServerCost {
            pids: self.0.keys().copied().collect(),
            cpu: self.cpu_since(before),
            at_rest: None,
            resident_before: before.resident(),
            resident_after: self.resident(),
        };
        let ended = before.0.keys();
        let ended = ended.filter(|pid| !self.has(**pid) && !self.inherits(before, **pid));
        let told = ended.map(|pid| {
            format!("process {pid} of the server ended during the run: what it spent is not in the figures")
        });
        (cost, told.collect())
    }
}

impl Process {
    /// In nanoseconds. Threads tell theirs exactly, but one that ended takes its figure along; ticks keep it, and are
    /// believed when they are more than their own coarseness apart.
    fn since(&self, before: &Self) -> u64 {
        let exact: u64 = self
            .threads
            .iter()
            .map(|(thread, nanos)| nanos - before.threads.get(thread).unwrap_or(&0).min(nanos))
            .sum();
        let ticks = self.ticks.saturating_sub(before.ticks);
        let coarse = ticks * tick_nanos();
        if coarse > exact + 2 * tick_nanos() {
            coarse
        } else {
            exact
        }
    }
}

fn tick_nanos() -> u64 {
    1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)
}

/// Each process and its parent.
fn parents() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| Some((pid, stat(pid)?.parent)))
        .collect()
}

/// `roots` and all that descend from them.
fn family(roots: &[u32], parents: &[(u32, u32)]) -> Vec<u32> {
    let mut found = roots.to_vec();
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        for (pid, of) in parents {
            if *of == parent && !found.contains(pid) {
                found.push(*pid);
            }
        }
        at += 1;
    }
    found
}

/// What /proc says of a process in one line.
struct Stat {
    parent: u32,
    /// Ticks in user and kernel mode.
    ticks: u64,
    /// The same, of its children that ended and were waited for.
    reaped: u64,
}

/// Source: `proc_pid_stat(5)`.
fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and parentheses; what follows the last one does not.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |nth: usize| fields.get(nth)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        ticks: number(11)? + number(12)?,
        reaped: number(13)? + number(14)?,
    })
}

fn one(pid: u32) -> Option<Process> {
    let Stat {
        parent,
        ticks,
        reaped,
    } = stat(pid)?;
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let threads = tasks.filter_map(|task| {
        let task = task.ok()?;
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let nanos = text.split_whitespace().next()?.parse().ok()?;
        Some((task.file_name().to_str()?.parse().ok()?, nanos))
    });
    Some(Process {
        threads: threads.collect(),
        ticks,
        reaped,
        parent,
        resident: resident(pid)?,
    })
}

/// The CPU time of a thread of this process.
pub(super) fn thread(id: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/self/task/{id}/schedstat")).ok()?;
    let nanos = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

/// In KiB. smaps_rollup counts; VmRSS, which needs no rights over the process, may be some pages behind.
fn resident(pid: u32) -> Option<u64> {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    field("smaps_rollup", "Rss:").or_else(|| field("status", "VmRSS:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_belong_to_the_family() {
        let parents = [(2, 1), (3, 2), (4, 1), (9, 8), (10, 3)];
        assert_eq!(family(&[2], &parents), [2, 3, 10]);
        assert_eq!(family(&[2, 3], &parents), [2, 3, 10]);
        assert_eq!(family(&[7], &parents), [7]);
    }

    #[test]
    fn a_process_that_works_is_seen_to_work() {
        let own = std::process::id();
        let before = look(&[own]);
        assert!(before.has(own) && before.resident() > 0);
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let after = look(&[own]);
        let (cost, told) = after.cost_since(&before);
        assert!(cost.cpu > Duration::from_millis(1), "{cost:?}");
        assert_eq!(told, Vec::<String>::new());
    }

    #[test]
    fn a_thread_that_ended_is_counted_by_the_ticks() {
        let of = |threads: &[(u32, u64)], ticks| Process {
            threads: threads.iter().copied().collect(),
            ticks,
            ..Process::default()
        };
        let second = 1_000_000_000;
        let ticks = rustix::param::clock_ticks_per_second();
        let before = of(&[(1, 5), (2, second)], ticks);
        assert_eq!(
            of(&[(1, 105), (2, second + 7)], ticks + 1).since(&before),
            107
        );
        assert_eq!(of(&[(1, 105)], 2 * ticks).since(&before), second);
    }

    #[test]
    fn a_process_that_ended_is_told() {
        let before = Snapshot(BTreeMap::from([(77, Process::default())]));
        let (cost, told) = Snapshot::default().cost_since(&before);
        assert_eq!(cost.cpu, Duration::ZERO);
        assert!(told[0].contains("process 77"), "{told:?}");
    }

    #[test]
    fn children_that_came_and_went_are_counted_by_their_parent() {
        let of = |parent, ticks, reaped| Process {
            ticks,
            reaped,
            parent,
            ..Process::default()
        };
        // 2 had spent 30 ticks before the run and ends in it; others of 1 come and go unseen.
        let before = Snapshot(BTreeMap::from([(1, of(0, 50, 7)), (2, of(1, 20, 10))]));
        let after = Snapshot(BTreeMap::from([(1, of(0, 50, 7 + 30 + 100))]));
        let (cost, told) = after.cost_since(&before);
        assert_eq!(cost.cpu, Duration::from_nanos(100 * tick_nanos()));
        assert_eq!(told, Vec::<String>::new());
    }

    #[test]
    fn a_child_that_was_never_seen_is_in_the_figures() {
        let own = std::process::id();
        let before = look(&[own]);
        let work = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        let child = std::process::Command::new("sh").args(["-c", work]).status();
        assert!(child.expect("a shell").success());
        let cost = look(&[own]).cpu_since(&before);
        assert!(cost >= Duration::from_millis(20), "{cost:?}");
    }

    #[test]
    fn a_process_that_is_not_there_cannot_be_asked_for() {
        let own = std::process::id();
        assert!(are_there(&[own]).is_ok());
        // Above what the kernel gives out at most (pid_max is 2^22).
        let told = are_there(&[own, 4_194_305])
            .expect_err("nobody")
            .to_string();
        assert!(told.contains("--pid 4194305"), "{told}");
    }
}
