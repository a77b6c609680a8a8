//! What this host lets the harness have.

use rustix::process::{Resource, getrlimit, setrlimit};

use super::{Fault, sink};

/// Descriptors that are not connections: runtimes, timers, files, a listening socket, and some to spare.
const OTHERS: u64 = 64;

/// Raises the soft limit of descriptors to the hard one, and sees that `connections` at once fit below it: each is one,
/// and a second where the sink is a thread of this process.
///
/// # Errors
/// [`Fault::Asked`], when they do not.
pub(super) fn allow(connections: u64) -> Result<(), Fault> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What cannot be raised stays; the check below tells whether it is enough.
    let _ = setrlimit(Resource::Nofile, limit);
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let needed = needed(connections, sink::thread().is_some());
    if needed <= allowed {
        return Ok(());
    }
    Err(Fault::Asked(format!(
        "{connections} connections at once need {needed} descriptors, and this process may have {allowed}; raise the hard limit \
         (ulimit -Hn, LimitNOFILE=), ask for fewer, or run `tidegate bench sink` as a process of its own"
    )))
}

fn needed(connections: u64, with_sink: bool) -> u64 {
    let each = if with_sink { 2 } else { 1 };
    connections.saturating_mul(each).saturating_add(OTHERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_to_a_sink_of_our_own_is_two_descriptors() {
        assert_eq!((needed(1000, false), needed(1000, true)), (1064, 2064));
        assert_eq!(needed(u64::MAX, true), u64::MAX);
    }
}
