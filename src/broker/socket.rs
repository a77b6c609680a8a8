//! A link to a broker, or a plain one to a device: TCP, a Unix socket, or TLS; and what is set on TCP sockets.

use std::future::{Future as _, poll_fn};
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BufMut as _;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, UnixStream};

use crate::tls::stream::{self, Got, Lost, READ, TlsStream};

use super::secure;

/// The least room that is made for what has come, in bytes; most packets fit. Who expects more brings a buffer that has the room.
const ROOM: usize = 2 * 1024;

/// A link that bytes can be read from and written to.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix stream socket.
    Unix(UnixStream),
    /// TLS over TCP, its handshake done; boxed, so that others do not pay for it.
    Tls(Box<TlsStream>),
}

/// Calls the same thing on either kind of plain socket, and something else on TLS.
macro_rules! either {
    ($socket:expr, $s:ident => $call:expr, $tls:ident => $secure:expr) => {
        match $socket {
            Socket::Tcp($s) => $call,
            Socket::Unix($s) => $call,
            Socket::Tls($tls) => $secure,
        }
    };
}

impl Socket {
    /// Reads what has come, adding it to `plain`: as much as it has room for, 2 KiB at least and 64 KiB at most, or in TLS a
    /// little more. Gives how many bytes; 0 is the end of the stream.
    ///
    /// # Errors
    /// When the socket or TLS failed; what came before that is in `plain`.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        plain: &mut Vec<u8>,
    ) -> Poll<io::Result<usize>> {
        either!(self, s => {
            // Who waits owns no buffer.
            ready!(s.poll_read_ready(cx))?;
            plain.reserve(ROOM);
            let mut room = (&mut *plain).limit(READ);
            // tokio's own read notes when it has drained the socket: `try_read` would cost a second call to find that out.
            pin!(s.read_buf(&mut room)).poll(cx)
        }, tls => {
            let before = plain.len();
            tls.poll_read(cx, plain).map(|got| match got {
                Ok(Got::Bytes) => Ok(plain.len() - before),
                Ok(Got::End) => Ok(0),
                Err(lost) => Err(told(lost)),
            })
        })
    }

    /// Writes what the socket takes of `plain`; gives how many bytes. TLS takes all over, once it has sent what it took before:
    /// [`Socket::poll_flush`].
    ///
    /// # Errors
    /// When the socket or TLS failed.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, plain: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, s => loop {
            ready!(s.poll_write_ready(cx))?;
            match s.try_write(plain) {
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }, tls => tls.poll_write(cx, plain).map_ok(|()| plain.len()).map_err(told))
    }

    /// The same, where [`Socket::poll_close_write`] follows: over TCP both go in one packet.
    ///
    /// # Errors
    /// When the socket or TLS failed.
    pub fn poll_write_last(
        &mut self,
        cx: &mut Context<'_>,
        plain: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(socket) => stream::poll_send_last(socket, cx, plain),
            _ => self.poll_write(cx, plain),
        }
    }

    /// Writes all of `bytes`, and sends them. Dropping it half-way leaves the other side with a part.
    ///
    /// # Errors
    /// When the socket or TLS failed.
    pub(super) async fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = poll_fn(|cx| self.poll_write(cx, bytes)).await?;
            bytes = &bytes[written..];
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Sends what was taken over and is not the kernel's yet.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, _s => Poll::Ready(Ok(())), tls => tls.poll_flush(cx))
    }

    /// How many bytes were taken over and are not the kernel's yet.
    pub fn unsent(&self) -> usize {
        either!(self, _s => 0, tls => tls.unsent())
    }

    /// Sends what was taken over and ends our side, in TLS by `close_notify`; reading goes on.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn poll_close_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, s => Poll::Ready(SockRef::from(&*s).shutdown(Shutdown::Write)),
            tls => tls.poll_close_write(cx))
    }
}

/// A fault of TLS in words: it comes from the broker, or is about it.
fn told(lost: Lost) -> io::Error {
    match lost {
        Lost::Io(fault) => fault,
        Lost::Tls(fault) => io::Error::other(format!("TLS: {}", secure::why_later(&fault))),
    }
}

/// How the death of the other side is found.
///
/// The user timeout is the sum of the probes': with a shorter one, Linux gives up at the first probe that is not
/// answered (tcp(7)).
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    /// Silence before the first probe.
    idle: Duration,
    /// Between probes.
    interval: Duration,
    /// How many probes go unanswered.
    probes: u32,
}

/// A device that sleeps must not be woken often, so probes begin late; the broker judges MQTT keep alives.
pub const DEVICE: Liveness = Liveness {
    idle: Duration::from_mins(5),
    interval: Duration::from_secs(30),
    probes: 4,
};

/// A broker never sleeps, and its death is the death of many connections.
pub const BROKER: Liveness = Liveness {
    idle: Duration::from_secs(30),
    interval: Duration::from_secs(10),
    probes: 3,
};

/// Sets up one end of a relay: no delay, and the other side's death found (threats.md V7). Set on a listening socket,
/// it holds for every socket accepted from it, at no cost for each.
///
/// # Errors
/// When the socket is closed already.
pub fn prepare(socket: &impl AsFd, liveness: Liveness) -> io::Result<()> {
    let keep_alive = TcpKeepalive::new()
        .with_time(liveness.idle)
        .with_interval(liveness.interval)
        .with_retries(liveness.probes);
    SockRef::from(socket).set_tcp_keepalive(&keep_alive)?;
    prepare_local(socket, liveness)
}

/// The same for the other side on this host: the kernel that would answer probes is the one that tells of an end at once,
/// and four system calls a connection are saved.
///
/// # Errors
/// When the socket is closed already.
pub fn prepare_local(socket: &impl AsFd, liveness: Liveness) -> io::Result<()> {
    let Liveness {
        idle,
        interval,
        probes,
    } = liveness;
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    // Sent bytes may stay unacknowledged, or a window closed, for so long.
    socket.set_tcp_user_timeout(Some(idle + interval * probes))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    /// threats.md V7: a side that never reads, though its kernel answers, is given up when the user timeout is over. Its
    /// length is that of the gate's own ([`BROKER`], [`DEVICE`]) in small.
    #[tokio::test]
    async fn a_side_that_never_reads_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (writer, deaf) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (writer, _deaf) = (writer.expect("it listens"), deaf.expect("it called"));
        let second = Liveness {
            idle: Duration::from_millis(500),
            interval: Duration::from_millis(250),
            probes: 2,
        };
        prepare_local(&writer, second).expect("a socket");
        let fault = timeout(Duration::from_secs(20), async {
            loop {
                writer.writable().await?;
                match writer.try_write(&[0; 4096]) {
                    Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {}
                    other => drop(other?),
                }
            }
        });
        let fault: io::Result<()> = fault.await.expect("it does not wait for ever");
        assert_eq!(fault.expect_err("given up").kind(), io::ErrorKind::TimedOut);
    }
}
