//! A TLS connection over a socket that owns no buffer while nothing moves.
//!
//! rustls's unbuffered API works on buffers that we lend it. They belong to the thread and are borrowed inside one
//! `poll`; a connection keeps only what could not move on: the front of a record that is not whole yet, and the
//! ciphertext that the socket did not take.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::ops::DerefMut;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, UnbufferedConnectionCommon, UnbufferedStatus,
    WriteTraffic,
};
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::witness::{Seen, witness};

/// How much is read from a socket at once, in bytes: four full TLS records.
pub const READ: usize = 64 * 1024;

/// How much is read at once during a handshake, in bytes: most flights of a device fit.
const FLIGHT: usize = 4 * 1024;

/// The most ciphertext held for a record or handshake message that is not whole yet, in bytes.
///
/// rustls takes handshake messages up to 64 KiB; what needs more is no TLS.
const HELD: usize = 96 * 1024;

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

/// Says when the next piece of a handshake is computed.
pub trait Pace {
    /// Waits until what the device has sent may be computed. `so_far`: what kind of handshake it is, once our answer to the
    /// ClientHello told. Dropping it drops the connection.
    fn next(&self, so_far: Option<HandshakeKind>) -> impl Future<Output = ()> + Send;
}

/// Nobody else wants the core.
#[derive(Clone, Copy, Debug)]
pub struct AtOnce;

impl Pace for AtOnce {
    async fn next(&self, _: Option<HandshakeKind>) {}
}

/// Which of the two sides of TLS we are. rustls has a type for each, and the same methods on both, but no trait.
pub trait Side: DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> {
    /// What rustls knows of this side only.
    type Data;
    /// Whether this is the server's.
    const IS_SERVER: bool;

    /// See [`UnbufferedConnectionCommon::process_tls_records`].
    fn step<'c, 'i>(&'c mut self, came: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    const IS_SERVER: bool = true;

    fn step<'c, 'i>(&'c mut self, came: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(came)
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    const IS_SERVER: bool = false;

    fn step<'c, 'i>(&'c mut self, came: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(came)
    }
}

/// One TLS connection: towards a device, unless said otherwise.
pub struct TlsStream<S = UnbufferedServerConnection> {
    socket: TcpStream,
    tls: S,
    /// The front of a record that is not whole yet.
    held: Vec<u8>,
    /// Ciphertext that the socket did not take yet, from `sent` on.
    unsent: Vec<u8>,
    sent: usize,
    ended: bool,
    closed: bool,
    /// TLS failed: rustls may not be asked again, as it remembers places in bytes that are gone.
    failed: bool,
    /// How many bytes came after that.
    forgotten: usize,
}

/// One TLS connection towards a broker.
pub type ClientStream = TlsStream<UnbufferedClientConnection>;

impl<S> std::fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl TlsStream {
    /// Takes a fresh socket; the handshake has yet to happen: [`TlsStream::handshake`].
    ///
    /// # Errors
    /// When the configuration is not usable, such as a record size out of range.
    pub fn new(socket: TcpStream, config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self::over(socket, UnbufferedServerConnection::new(config)?))
    }

    /// Does the handshake; `came` is what has been read from the socket so far. Gives what the device sent right
    /// behind its handshake, decrypted: the front of its CONNECT, mostly.
    ///
    /// `came` is computed at once, what comes later at the word of `pace`. What is learnt on the way goes into `seen`, also
    /// when it fails. Dropping it half-way drops the connection.
    ///
    /// # Errors
    /// [`Lost`]; the alert that rustls wrote has been sent as far as the socket took it.
    pub async fn handshake(
        &mut self,
        came: Vec<u8>,
        seen: &mut Seen,
        pace: &impl Pace,
    ) -> Result<Vec<u8>, Lost> {
        let process = |this: &mut Self, came: &mut [u8], plain: &mut Vec<u8>| {
            witness(seen, || this.process(came, plain))
        };
        self.shake_hands(came, process, pace).await
    }
}

impl ClientStream {
    /// Takes a fresh socket, and a name that the server's certificate has to be for; the handshake has yet to happen:
    /// [`ClientStream::greet`].
    ///
    /// # Errors
    /// When the configuration is not usable.
    pub fn towards(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self::over(
            socket,
            UnbufferedClientConnection::new(config, name)?,
        ))
    }

    /// Does the handshake; gives what the server sent right behind its own, decrypted. Dropping it half-way drops the
    /// connection.
    ///
    /// In TLS 1.3 a server judges our certificate after that: what it thinks of it is learnt by the first read.
    ///
    /// # Errors
    /// [`Lost`]; the alert that rustls wrote has been sent as far as the socket took it.
    pub async fn greet(&mut self) -> Result<Vec<u8>, Lost> {
        self.shake_hands(Vec::new(), Self::process, &AtOnce).await
    }
}

impl<S: Side> TlsStream<S> {
    fn over(socket: TcpStream, tls: S) -> Self {
        Self {
            socket,
            tls,
            held: Vec::new(),
            unsent: Vec::new(),
            sent: 0,
            ended: false,
            closed: false,
            failed: false,
            forgotten: 0,
        }
    }

    /// Does the handshake with what `came` so far; `process` puts what came through TLS, as [`TlsStream::process`] does.
    async fn shake_hands(
        &mut self,
        mut came: Vec<u8>,
        mut process: impl FnMut(&mut Self, &mut [u8], &mut Vec<u8>) -> Result<usize, rustls::Error>,
        pace: &impl Pace,
    ) -> Result<Vec<u8>, Lost> {
        // Until it is over, every way out leaves bytes behind that rustls remembers places in: nothing may be asked of
        // it then but what has been written already.
        self.failed = true;
        let mut plain = Vec::new();
        loop {
            let rest = match process(self, &mut came, &mut plain) {
                Ok(used) => came.split_off(used),
                Err(fault) => {
                    let _ = std::future::poll_fn(|cx| self.poll_flush(cx)).await;
                    return Err(fault.into());
                }
            };
            std::future::poll_fn(|cx| self.poll_flush(cx)).await?;
            came = rest;
            if !self.tls.is_handshaking() {
                self.held = came;
                self.failed = false;
                self.held.shrink_to_fit();
                return Ok(plain);
            }
            if self.ended || came.len() > HELD {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.read_more(&mut came).await?;
            pace.next(self.tls.handshake_kind()).await;
        }
    }

    /// Reads once into `came`.
    async fn read_more(&mut self, came: &mut Vec<u8>) -> io::Result<()> {
        self.socket.readable().await?;
        came.reserve(FLIGHT); // who says nothing owns no buffer
        match self.socket.read_buf(came).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// The TLS version in use, once known: `1.2` or `1.3`.
    pub fn version(&self) -> Option<&'static str> {
        match self.tls.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_2 => Some("1.2"),
            rustls::ProtocolVersion::TLSv1_3 => Some("1.3"),
            _ => None,
        }
    }

    /// The cipher suite in use, once known, by its IANA name.
    pub fn cipher(&self) -> Option<&'static str> {
        self.tls.negotiated_cipher_suite()?.suite().as_str()
    }

    /// Whether an earlier TLS session was resumed.
    pub fn resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The ALPN protocol agreed upon, if any.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls.alpn_protocol()
    }

    /// What the other side showed, its own certificate first: in this handshake, or in the one that was resumed. Empty: nothing.
    pub fn peer_chain(&self) -> &[CertificateDer<'static>] {
        self.tls.peer_certificates().unwrap_or_default()
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
            let filled =
                CIPHERTEXT.with_borrow_mut(|(buffer, _)| self.poll_fill(cx, buffer, plain));
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
        if self.failed {
            // Read and forgotten, as nobody is left to understand it; but not for ever (threats.md T2).
            self.forgotten += got;
            self.ended = self.forgotten > MOST_FORGOTTEN;
            return Ok(());
        }
        buffer[..start].copy_from_slice(&self.held);
        let whole = &mut buffer[..start + got];
        match self.process(whole, plain) {
            Ok(used) => {
                self.held.clear();
                self.held.extend_from_slice(&whole[used..]);
                if self.held.is_empty() {
                    self.held = Vec::new(); // an idle connection owns no buffer
                }
                Ok(())
            }
            Err(fault) => Err(fault.into()),
        }
    }

    /// Puts `came` through TLS: plaintext is added to `plain`, records of ours to `unsent`. Gives how many bytes of
    /// `came` are used up.
    fn process(&mut self, came: &mut [u8], plain: &mut Vec<u8>) -> Result<usize, rustls::Error> {
        let used = self.process_records(came, plain);
        self.failed |= used.is_err();
        used
    }

    fn process_records(
        &mut self,
        came: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> Result<usize, rustls::Error> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.tls.step(&mut came[used..]);
            let state = match state {
                Ok(state) => state,
                Err(fault) => {
                    self.queue_alert(&mut came[used + discard..], &fault);
                    return Err(fault);
                }
            };
            let mut done = false;
            match state {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut record) => {
                    encode(&mut record, &mut self.unsent)?;
                }
                // What was encoded waits in `unsent`, in order.
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                ConnectionState::PeerClosed => self.ended = true,
                ConnectionState::ReadEarlyData(_) => {
                    return Err(rustls::Error::General(
                        "early data is off, yet it came".into(),
                    ));
                }
                // BlockedHandshake, WriteTraffic, Closed, and whatever comes later: no more to do with these bytes.
                _ => done = true,
            }
            used += discard;
            if done {
                return Ok(used);
            }
        }
    }

    /// After a fault: what rustls wants to tell the other side goes to `unsent`. `rest` is what was not used up.
    ///
    /// Once the alert is out, rustls must not be asked again: it would go on with `rest`, and fail once more.
    fn queue_alert(&mut self, rest: &mut [u8], fault: &rustls::Error) {
        // rustls says nothing when it finds in TLS 1.2 that the device can check no signature of ours. It is before
        // any key, so the alert is plain: handshake_failure, fatal (RFC 5246 §7.2).
        if S::IS_SERVER
            && matches!(fault, rustls::Error::General(_))
            && self.tls.is_handshaking()
            && self.tls.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_2)
            && !self.tls.wants_write()
        {
            self.unsent.extend_from_slice(&[21, 3, 3, 0, 2, 2, 40]);
        }
        while self.tls.wants_write() {
            match self.tls.step(rest).state {
                Ok(ConnectionState::EncodeTlsData(mut record)) => {
                    if encode(&mut record, &mut self.unsent).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    }

    /// Encrypts all of `plain` and sends it; `Ready` once it is taken over, which is all or nothing. What the socket
    /// does not take stays in `unsent`, and the next write waits for it: that is the backpressure.
    ///
    /// # Errors
    /// When the socket or TLS failed.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, plain: &[u8]) -> Poll<Result<(), Lost>> {
        ready!(self.poll_flush(cx))?;
        if plain.is_empty() {
            return Poll::Ready(Ok(()));
        }
        CIPHERTEXT.with_borrow_mut(|(_, out)| {
            let length = self.encrypt(plain, out)?;
            // Records of TLS's own that were written meanwhile go first: records are numbered.
            let sent = match self
                .unsent
                .is_empty()
                .then(|| self.socket.try_write(&out[..length]))
            {
                Some(Ok(sent)) => sent,
                None => 0,
                Some(Err(fault)) if fault.kind() == io::ErrorKind::WouldBlock => 0,
                Some(Err(fault)) => return Err(Lost::Io(fault)),
            };
            self.unsent.extend_from_slice(&out[sent..length]);
            Ok(())
        })?;
        // Registers the waker for what is left, if anything is.
        if let Poll::Ready(Err(fault)) = self.poll_flush(cx) {
            return Poll::Ready(Err(fault.into()));
        }
        Poll::Ready(Ok(()))
    }

    /// Encrypts `plain` into `out` from its front; gives the length.
    fn encrypt(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<usize, rustls::Error> {
        self.when_writable(|traffic| {
            loop {
                match traffic.encrypt(plain, out) {
                    Ok(length) => return Ok(length),
                    Err(EncryptError::InsufficientSize(wants)) => {
                        out.resize(wants.required_size, 0);
                    }
                    Err(EncryptError::EncryptExhausted) => return Err(rustls::Error::EncryptError),
                }
            }
        })
    }

    /// Lets TLS say what it has to say of its own (key updates), then calls `write`.
    fn when_writable<T>(
        &mut self,
        write: impl FnOnce(&mut WriteTraffic<'_, S::Data>) -> Result<T, rustls::Error>,
    ) -> Result<T, rustls::Error> {
        if self.failed {
            return Err(rustls::Error::HandshakeNotComplete);
        }
        // What is held is shown again: rustls remembers how far into it it has read.
        let mut held = std::mem::take(&mut self.held);
        let settled = self.process(&mut held, &mut Vec::new());
        let outcome = settled.and_then(|_| match self.tls.step(&mut held).state? {
            ConnectionState::WriteTraffic(mut traffic) => write(&mut traffic),
            _ => Err(rustls::Error::HandshakeNotComplete),
        });
        self.held = held;
        outcome
    }

    /// How many bytes of ciphertext the socket has not taken yet.
    pub fn unsent(&self) -> usize {
        self.unsent.len() - self.sent
    }

    /// Sends what is left of the ciphertext.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.unsent.len() {
            ready!(self.socket.poll_write_ready(cx))?;
            match self.socket.try_write(&self.unsent[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {}
                Err(fault) => return Poll::Ready(Err(fault)),
            }
        }
        if self.sent > 0 {
            self.unsent = Vec::new();
            self.sent = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Says `close_notify` and ends our side of the socket; reading goes on.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn poll_close_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        // A fatal alert was the last word, if TLS failed (RFC 8446 §6.2).
        if !self.closed && !self.failed {
            self.closed = true;
            let mut alert = [0; 64];
            let length = self.when_writable(|traffic| {
                traffic
                    .queue_close_notify(&mut alert)
                    .map_err(|_| rustls::Error::EncryptError)
            });
            self.unsent.extend_from_slice(&alert[..length.unwrap_or(0)]);
            ready!(self.poll_flush(cx))?;
        }
        Poll::Ready(socket2::SockRef::from(&self.socket).shutdown(Shutdown::Write))
    }
}

/// Adds one record of the handshake to `unsent`.
fn encode<Data>(
    record: &mut rustls::unbuffered::EncodeTlsData<'_, Data>,
    unsent: &mut Vec<u8>,
) -> Result<(), rustls::Error> {
    let start = unsent.len();
    let wants = match record.encode(&mut []) {
        Err(EncodeError::InsufficientSize(wants)) => wants.required_size,
        Ok(_) | Err(EncodeError::AlreadyEncoded) => return Ok(()),
    };
    unsent.resize(start + wants, 0);
    record
        .encode(&mut unsent[start..])
        .map(|_| ())
        .map_err(|fault| rustls::Error::General(fault.to_string()))
}
