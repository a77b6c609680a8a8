//! A thread of a gate that does not get on.

use std::time::Instant;

use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::PATIENCE;
use super::gate::Gate;

/// It goes on when this is dropped, which must be done by the thread of the test that made it.
pub struct Held {
    thread: Pid,
    pub since: Instant,
}

impl Held {
    /// Holds the thread of that name; `None`, said aloud: this host does not let us.
    pub fn hold(gate: &Gate, name: &str) -> Option<Self> {
        let thread = Pid::from_raw(gate.thread(name));
        let held = ptrace::seize(thread, ptrace::Options::empty())
            .and_then(|()| ptrace::interrupt(thread));
        if let Err(fault) = held {
            let required =
                std::env::var_os("TIDEGATE_PEERS").is_some_and(|word| word == "required");
            assert!(!required, "ptrace is not allowed here: {fault}");
            eprintln!(
                "SKIPPED: ptrace is not allowed here ({fault}): NOBODY SAW WHAT A STUCK THREAD DOES"
            );
            return None;
        }
        waitpid(thread, None).expect("it stops");
        let since = Instant::now();
        Some(Self { thread, since })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        ptrace::detach(self.thread, None).expect("it was held");
        assert!(self.since.elapsed() < PATIENCE);
    }
}
