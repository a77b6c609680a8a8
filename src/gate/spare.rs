//! One file descriptor kept back, so that whoever comes when there is none left can be turned away (threats.md V3).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use socket2::{Domain, Socket, Type};

/// A descriptor that stands for nothing, until it is needed.
///
/// While one worker has lent it, another's accept may take it: that one must see [`is_kept`](Self::is_kept), and give it back.
#[derive(Debug)]
pub(crate) struct Spare {
    kept: Mutex<Option<Socket>>,
    /// Whether `kept` is `None`: seen at no cost at each accept.
    missing: AtomicBool,
}

impl Spare {
    /// Keeps one back, if there is one.
    pub(crate) fn new() -> Self {
        let kept = fresh().ok();
        Self {
            missing: AtomicBool::new(kept.is_none()),
            kept: Mutex::new(kept),
        }
    }

    /// Calls `with` while the descriptor is free. What `with` opens it has to close, so that there is one to keep back again.
    ///
    /// `None`, and `with` is not called: somebody else was quicker to take it, and has not given one back yet.
    pub(crate) fn lend<T>(&self, with: impl FnOnce() -> T) -> Option<T> {
        // Workers take turns: they shall not take it from each other.
        let mut kept = self.lock();
        if kept.is_none() {
            *kept = fresh().ok();
        }
        self.missing.store(true, Ordering::SeqCst); // before it is free, so that whoever takes it sees that
        let outcome = kept.take().map(|spare| {
            drop(spare);
            with()
        });
        *kept = fresh().ok();
        self.missing.store(kept.is_none(), Ordering::SeqCst);
        outcome
    }

    /// Whether there is one, or one can be had now. If not, whoever holds one that it could close has taken it: it closes it, and asks
    /// again.
    pub(crate) fn is_kept(&self) -> bool {
        if !self.missing.load(Ordering::SeqCst) {
            return true;
        }
        let mut kept = self.lock();
        if kept.is_none() {
            *kept = fresh().ok();
        }
        self.missing.store(kept.is_none(), Ordering::SeqCst);
        kept.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Socket>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket that nobody can reach: unlike a file it needs nothing but the descriptor.
fn fresh() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::DGRAM, None)
}
