//! A TLS connection over a socket that owns no buffer while nothing moves.
//!
//! The buffers belong to the thread and are borrowed inside one `poll`; a connection keeps only what could not move on: the front
//! of a record that is not whole yet, and the ciphertext that the socket did not take.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead as _, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::records::{Opened, Records};

/// How much is read from a socket at once, in bytes: four full TLS records.
pub const READ: usize = 64 * 1024;

/// The most ciphertext held for a record or handshake message that is not whole yet, in bytes.
///
/// rustls takes handshake messages up to 64 KiB; what needs more is no TLS.
pub(super) const HELD: usize = 96 * 1024;

/// The most that is read after TLS failed, in bytes, so that the alert is not lost to a reset.
const MOST_FORGOTTEN: usize = 1024 * 1024;

thread_local! {
    /// Ciphertext that came, and ciphertext to go. Borrowed inside one poll only.
    static CIPHERTEXT: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Why a TLS connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// TLS failed; the alert, if any, is under way.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
}

/// What a read gave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Got {
    /// Bytes were added.
    Bytes,
    /// The other side has closed: by `close_notify`, or by a bare end of stream.
    End,
}

/// Ciphertext on its way to a socket.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// What the socket did not take yet, from `sent` on.
    pub(super) unsent: Vec<u8>,
    sent: usize,
}

impl Outbox {
    fn len(&self) -> usize {
        self.unsent.len() - self.sent
    }

    /// Sends what is left.
    ///
    /// # Errors
    /// When the socket failed.
    pub(super) fn poll_flush(
        &mut self,
        socket: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_send(|left| poll_send(socket, cx, left, SendFlags::empty()))
    }

    fn poll_send(
        &mut self,
        mut send: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        while self.sent < self.unsent.len() {
            self.sent += ready!(send(&self.unsent[self.sent..]))?;
        }
        if self.sent > 0 {
            *self = Self::default();
        }
        Poll::Ready(Ok(()))
    }
}

/// Sends what the socket takes of `bytes`; gives how many.
fn poll_send(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    bytes: &[u8],
    flags: SendFlags,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        let sent = socket.try_io(Interest::WRITABLE, || {
            Ok(rustix::net::send(
                socket,
                bytes,
                flags | SendFlags::NOSIGNAL,
            )?)
        });
        match sent {
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {}
            other => return Poll::Ready(other),
        }
    }
}

/// Sends what the socket takes of `bytes`, and gives how many; the end of our side follows at once, and goes in one packet with them.
///
/// # Errors
/// When the socket failed.
pub fn poll_send_last(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    poll_send(socket, cx, bytes, SendFlags::MORE)
}

/// One TLS connection after its handshake, towards a device or a broker.
pub struct TlsStream {
    socket: TcpStream,
    /// `None`: TLS failed, and nothing can be read or written any more but what is in the outbox.
    records: Option<Records>,
    /// The front of a record that is not whole yet.
    held: Vec<u8>,
    /// There may be whole records before it: they came with the handshake.
    unopened: bool,
    outbox: Outbox,
    ended: bool,
    closed: bool,
    /// How many bytes came after TLS failed.
    forgotten: usize,
    chain: Vec<CertificateDer<'static>>,
}

impl std::fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl TlsStream {
    /// What a handshake leaves behind; see [`super::handshake::Handshake::settle`].
    pub(super) fn over(socket: TcpStream, records: Option<Records>, outbox: Outbox) -> Self {
        Self {
            socket,
            records,
            held: Vec::new(),
            unopened: false,
            outbox,
            ended: false,
            closed: false,
            forgotten: 0,
            chain: Vec::new(),
        }
    }

    /// What came in the handshake and is still of use.
    pub(super) fn hold(&mut self, held: Vec<u8>, ended: bool, chain: Vec<CertificateDer<'static>>) {
        self.unopened = !held.is_empty();
        self.held = held;
        self.ended = ended;
        self.chain = chain;
    }

    /// What the other side showed, its own certificate first: in this handshake, or in the one that was resumed. Empty: nothing.
    pub fn peer_chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Reads what has come, adding the plaintext to `plain`: up to about [`READ`] bytes. After TLS failed, what comes is
    /// forgotten, and only the end of the stream is told, which is after 1 MiB at the latest.
    ///
    /// # Errors
    /// [`Lost`]; plaintext that came before the fault is in `plain`.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        plain: &mut Vec<u8>,
    ) -> Poll<Result<Got, Lost>> {
        let before = plain.len();
        loop {
            if self.ended {
                return Poll::Ready(Ok(Got::End));
            }
            let filled = if self.unopened {
                Poll::Ready(self.open_held(plain))
            } else {
                CIPHERTEXT.with_borrow_mut(|(buffer, _)| self.poll_fill(cx, buffer, plain))
            };
            let outcome = ready!(filled);
            // Alerts and key updates that the records called for; what the socket does not take now goes later. Who
            // cannot be written to may have said something before: that is for the next write to find, not for us.
            let _ = self.poll_flush(cx);
            match outcome {
                Ok(()) if plain.len() > before => return Poll::Ready(Ok(Got::Bytes)),
                Ok(()) => {}
                Err(fault) => return Poll::Ready(Err(fault)),
            }
        }
    }

    /// One read of the socket into the thread's buffer, behind what was held, and through TLS.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Vec<u8>,
        plain: &mut Vec<u8>,
    ) -> Poll<Result<(), Lost>> {
        let start = self.held.len();
        if start > HELD {
            let too_long = io::Error::from(io::ErrorKind::InvalidData);
            return Poll::Ready(Err(too_long.into()));
        }
        if buffer.len() < HELD + READ {
            buffer.resize(HELD + READ, 0);
        }
        // tokio's own read notes when it has drained the socket: `try_read` would cost a second call to find that out.
        let mut room = ReadBuf::new(&mut buffer[start..start + READ]);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut room))?;
        let got = room.filled().len();
        Poll::Ready(self.take(buffer, start, got, plain))
    }

    /// Puts through TLS what was held and the `got` bytes that were read behind it, from `start` on in `buffer`.
    fn take(
        &mut self,
        buffer: &mut [u8],
        start: usize,
        got: usize,
        plain: &mut Vec<u8>,
    ) -> Result<(), Lost> {
        if got == 0 {
            self.ended = true;
            return Ok(());
        }
        if self.records.is_none() {
            // Read and forgotten, as nobody is left to understand it; but not for ever (threats.md T2).
            self.forgotten += got;
            self.ended = self.forgotten > MOST_FORGOTTEN;
            return Ok(());
        }
        buffer[..start].copy_from_slice(&self.held);
        self.open(&mut buffer[..start + got], plain)
    }

    /// Opens the records that came with the handshake, if nobody has: as the first read does, but without one of the socket.
    ///
    /// # Errors
    /// [`Lost::Tls`]; plaintext that came before the fault is in `plain`.
    pub(super) fn open_held(&mut self, plain: &mut Vec<u8>) -> Result<(), Lost> {
        if !std::mem::take(&mut self.unopened) {
            return Ok(());
        }
        let mut came = std::mem::take(&mut self.held);
        self.open(&mut came, plain)
    }

    /// Opens the whole records at the front of `came`, and holds the rest.
    fn open(&mut self, came: &mut [u8], plain: &mut Vec<u8>) -> Result<(), Lost> {
        let Some(records) = &mut self.records else {
            return Ok(());
        };
        match records.open(came, plain, &mut self.outbox.unsent) {
            Ok(Opened { used, ended }) => {
                self.ended |= ended;
                self.held.clear();
                self.held.extend_from_slice(&came[used..]);
                if self.held.is_empty() {
                    self.held = Vec::new(); // an idle connection owns no buffer
                }
                Ok(())
            }
            Err(fault) => {
                self.fail();
                Err(fault.into())
            }
        }
    }

    /// Whether the other side has said all: the next read gives [`Got::End`].
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Encrypts all of `plain` and sends it; `Ready` once it is taken over, which is all or nothing. What the socket
    /// does not take stays in the outbox, and the next write waits for it: that is the backpressure.
    ///
    /// # Errors
    /// When the socket or TLS failed.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, plain: &[u8]) -> Poll<Result<(), Lost>> {
        ready!(self.poll_flush(cx))?;
        if plain.is_empty() {
            return Poll::Ready(Ok(()));
        }
        CIPHERTEXT.with_borrow_mut(|(_, out)| {
            let Some(records) = &mut self.records else {
                return Err(rustls::Error::HandshakeNotComplete.into());
            };
            out.clear();
            if let Err(fault) = records.seal(plain, out) {
                // What was sealed before has its numbers: it goes, and the last word behind it (RFC 5246 §7.2.1).
                let _ = records.close_notify(out);
                self.outbox.unsent.extend_from_slice(out);
                self.fail();
                return Err(fault.into());
            }
            let sent = match self.socket.try_write(out) {
                Ok(sent) => sent,
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => 0,
                Err(fault) => return Err(Lost::Io(fault)),
            };
            self.outbox.unsent.extend_from_slice(&out[sent..]);
            Ok(())
        })?;
        // Registers the waker for what is left, if anything is.
        if let Poll::Ready(Err(fault)) = self.poll_flush(cx) {
            return Poll::Ready(Err(fault.into()));
        }
        Poll::Ready(Ok(()))
    }

    /// How many bytes of ciphertext the socket has not taken yet.
    pub fn unsent(&self) -> usize {
        self.outbox.len()
    }

    /// Sends what is left of the ciphertext.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outbox.poll_flush(&self.socket, cx)
    }

    /// Says `close_notify` and ends our side of the socket; reading goes on.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn poll_close_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        // A fatal alert was the last word, if TLS failed (RFC 8446 §6.2).
        if let Some(records) = self.records.as_mut().filter(|_| !self.closed) {
            self.closed = true;
            let _ = records.close_notify(&mut self.outbox.unsent);
        }
        let Self { outbox, socket, .. } = self;
        ready!(outbox.poll_send(|left| poll_send_last(socket, cx, left)))?;
        Poll::Ready(socket2::SockRef::from(&self.socket).shutdown(Shutdown::Write))
    }

    /// Lets our key seal no more than so many records.
    #[cfg(test)]
    pub(super) fn wear_out(&mut self, records: u64) {
        self.records
            .as_mut()
            .expect("a handshake")
            .wear_out(records);
    }

    /// Lets go what can be of no use any more.
    fn fail(&mut self) {
        self.records = None;
        self.held = Vec::new();
    }
}
