//! Either side of a relay, reading and writing plaintext: the device with or without TLS, the broker.

use std::io;
use std::task::{Context, Poll};

use crate::broker::socket::Socket;
use crate::tls::stream::{Got, Lost, TlsStream};

/// One side of a relay.
pub(crate) trait Wire {
    /// Reads what has come, adding the plaintext to `plain`, 64 KiB or a little more. What came before a fault is
    /// in `plain`, too.
    fn poll_read(&mut self, cx: &mut Context<'_>, plain: &mut Vec<u8>) -> Poll<io::Result<Got>>;

    /// Writes from the front of `plain`; gives how many bytes were taken over.
    fn poll_write(&mut self, cx: &mut Context<'_>, plain: &[u8]) -> Poll<io::Result<usize>>;

    /// The same, where our end follows: both may go in one packet.
    fn poll_write_last(&mut self, cx: &mut Context<'_>, plain: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write(cx, plain)
    }

    /// Whether the other side is known to have said all, so that the next read gives [`Got::End`].
    fn has_ended(&self) -> bool {
        false
    }

    /// Sends what was taken over and is still here.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Sends what was taken over and ends our side; reading goes on.
    fn poll_close_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// The link to a device.
#[derive(Debug)]
pub(crate) enum DeviceLink {
    /// Without TLS.
    Plain(Socket),
    /// With TLS; boxed, so that a plain link does not pay for it.
    Tls(Box<TlsStream>),
}

impl DeviceLink {
    /// Bytes that were taken over and that the socket has not taken yet.
    pub(crate) fn unsent(&self) -> usize {
        match self {
            Self::Plain(socket) => socket.unsent(),
            Self::Tls(tls) => tls.unsent(),
        }
    }

    /// Reads once onto the end of `bytes`. Dropping it loses nothing.
    ///
    /// # Errors
    /// [`Lost`], which tells a fault of TLS from one of the socket.
    pub(crate) async fn read(&mut self, bytes: &mut Vec<u8>) -> Result<Got, Lost> {
        std::future::poll_fn(|cx| self.poll_read_link(cx, bytes)).await
    }

    fn poll_read_link(
        &mut self,
        cx: &mut Context<'_>,
        plain: &mut Vec<u8>,
    ) -> Poll<Result<Got, Lost>> {
        match self {
            Self::Plain(socket) => Wire::poll_read(socket, cx, plain).map_err(Lost::Io),
            Self::Tls(tls) => tls.poll_read(cx, plain),
        }
    }
}

impl Wire for Socket {
    fn poll_read(&mut self, cx: &mut Context<'_>, plain: &mut Vec<u8>) -> Poll<io::Result<Got>> {
        Socket::poll_read(self, cx, plain).map_ok(|n| if n == 0 { Got::End } else { Got::Bytes })
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, plain: &[u8]) -> Poll<io::Result<usize>> {
        Socket::poll_write(self, cx, plain)
    }

    fn poll_write_last(&mut self, cx: &mut Context<'_>, plain: &[u8]) -> Poll<io::Result<usize>> {
        Socket::poll_write_last(self, cx, plain)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Socket::poll_flush(self, cx)
    }

    fn poll_close_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Socket::poll_close_write(self, cx)
    }
}

impl Wire for DeviceLink {
    fn poll_read(&mut self, cx: &mut Context<'_>, plain: &mut Vec<u8>) -> Poll<io::Result<Got>> {
        self.poll_read_link(cx, plain).map_err(into_io)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, plain: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => Wire::poll_write(socket, cx, plain),
            Self::Tls(tls) => tls
                .poll_write(cx, plain)
                .map_ok(|()| plain.len())
                .map_err(into_io),
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.has_ended(),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Wire::poll_flush(socket, cx),
            Self::Tls(tls) => tls.poll_flush(cx),
        }
    }

    fn poll_close_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Wire::poll_close_write(socket, cx),
            Self::Tls(tls) => tls.poll_close_write(cx),
        }
    }
}

fn into_io(lost: Lost) -> io::Error {
    match lost {
        Lost::Io(fault) => fault,
        Lost::Tls(fault) => io::Error::other(fault),
    }
}

/// Reads once from `wire` onto the end of `bytes`. Dropping it loses nothing.
pub(crate) async fn read(wire: &mut impl Wire, bytes: &mut Vec<u8>) -> io::Result<Got> {
    std::future::poll_fn(|cx| wire.poll_read(cx, bytes)).await
}

/// Writes all of `bytes`. Dropping it half-way leaves the other side with a part.
pub(crate) async fn write_all(wire: &mut impl Wire, bytes: &[u8]) -> io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        at += std::future::poll_fn(|cx| wire.poll_write(cx, &bytes[at..])).await?;
    }
    Ok(())
}

/// The most that [`linger`] reads and forgets, in bytes.
pub(crate) const LINGER_BYTES: usize = 1024 * 1024;

/// Ends our side of `wire`, then reads and forgets what still comes, until the other side ends, too, or `most` bytes
/// came.
///
/// A socket closed with unread bytes in it makes the kernel send a reset, and a reset can overtake our last words:
/// the device would lose its CONNACK or DISCONNECT. Run it under a deadline; dropping it closes at once.
pub(crate) async fn linger(wire: &mut impl Wire, most: usize) {
    if std::future::poll_fn(|cx| wire.poll_close_write(cx))
        .await
        .is_err()
    {
        return;
    }
    let mut scrap = Vec::new();
    let mut came = 0;
    while came < most {
        scrap.clear();
        match read(wire, &mut scrap).await {
            Ok(Got::Bytes) => came += scrap.len(),
            Ok(Got::End) | Err(_) => return,
        }
    }
}
