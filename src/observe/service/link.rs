//! The socket of the service manager.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A socket that leads to the service manager.
#[derive(Debug)]
pub(super) struct Link {
    socket: UnixDatagram,
    place: SocketAddr,
}

impl Link {
    /// Connects to `place`, as `NOTIFY_SOCKET` writes it: `/path`, or `@name` for an abstract socket.
    pub(super) fn open(place: &OsStr) -> io::Result<Self> {
        let place = match place.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            [b'/', ..] => SocketAddr::from_pathname(place),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is neither an absolute path nor @name",
            )),
        }?;
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&place)?;
        Ok(Self { socket, place })
    }

    /// Says `words`, one message. Waits for a manager that does not read. One that has come again since, at the same place, is found;
    /// of one that has gone there is nothing to say.
    pub(super) fn say(&self, words: &str) {
        if self.socket.send(words.as_bytes()).is_err()
            && self.socket.connect_addr(&self.place).is_ok()
        {
            let _ = self.socket.send(words.as_bytes());
        }
    }
}
