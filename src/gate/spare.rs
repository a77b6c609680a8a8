//! One file descriptor kept back, so that whoever comes when there is none left can be turned away (threats.md V3).

use std::io;
use std::sync::{Mutex, PoisonError};

use socket2::{Domain, Socket, Type};

/// A descriptor that stands for nothing, until it is needed.
#[derive(Debug)]
pub(crate) struct Spare(Mutex<Option<Socket>>);

impl Spare {
    /// Keeps one back, if there is one.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(fresh().ok()))
    }

    /// Calls `with` while the descriptor is free. What `with` opens it has to close, so that there is one to keep back again.
    ///
    /// `None`, and `with` is not called: somebody else was quicker to take it, and has not given one back yet.
    pub(crate) fn lend<T>(&self, with: impl FnOnce() -> T) -> Option<T> {
        // Workers take turns: they shall not take it from each other.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() {
            *kept = fresh().ok();
        }
        drop(kept.take()?);
        let outcome = with();
        *kept = fresh().ok();
        Some(outcome)
    }
}

/// A socket that nobody can reach: unlike a file it needs nothing but the descriptor.
fn fresh() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::DGRAM, None)
}
