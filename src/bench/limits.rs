//! What this host lets the harness have.

use rustix::process::{Resource, getrlimit, setrlimit};

use super::Fault;

/// Descriptors that are not connections: runtimes, timers, files, a listening socket, and some to spare.
const OTHERS: u64 = 64;

/// Raises the soft limit of descriptors to the hard one, and sees that `connections` at once fit below it.
///
/// # Errors
/// [`Fault::Asked`], when they do not.
pub(super) fn allow(connections: u64) -> Result<(), Fault> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What cannot be raised stays; the check below tells whether it is enough.
    let _ = setrlimit(Resource::Nofile, limit);
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if connections.saturating_add(OTHERS) <= allowed {
        return Ok(());
    }
    Err(Fault::Asked(format!(
        "{connections} connections at once need {} descriptors, and this process may have {allowed}; raise the hard limit \
         (ulimit -Hn, LimitNOFILE=), or ask for fewer",
        connections.saturating_add(OTHERS)
    )))
}
