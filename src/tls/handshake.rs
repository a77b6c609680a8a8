//! The handshake of a TLS connection, which rustls does.
//!
//! rustls's unbuffered API works on buffers that we lend it. A handshake under way keeps what came of a record that is not whole
//! yet, and what the socket did not take; once it is over, [`Handshake::settle`] lets rustls go.

use std::future::poll_fn;
use std::io;
use std::ops::DerefMut;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::crypto::tls13::OkmBlock;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, UnbufferedConnectionCommon, UnbufferedStatus,
};
use rustls::{ClientConfig, Error, HandshakeKind, KeyLog, ServerConfig, SupportedCipherSuite};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::protection::{HEADER, LARGEST, Protection, Protections, Record};
use super::records::{Next, Records};
use super::stream::{HELD, Lost, Outbox, TlsStream};
use super::witness::{Seen, note, witness};

/// How much is read at once during a handshake, in bytes: most flights of a device fit.
const FLIGHT: usize = 4 * 1024;

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
pub trait Side: DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> + Sized {
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

/// A handshake that is to come, is under way, or is over: with a device, unless said otherwise.
pub struct Handshake<S = UnbufferedServerConnection> {
    socket: TcpStream,
    tls: S,
    /// The most plaintext in a record of ours, in bytes.
    most: usize,
    outbox: Outbox,
    /// So much of what came and is not used up has rustls seen; it remembers places in it.
    shown: usize,
    /// What came behind the handshake.
    held: Vec<u8>,
    /// The other side has closed.
    ended: bool,
    is_over: bool,
}

/// A handshake with a broker.
pub type Greeting = Handshake<UnbufferedClientConnection>;

impl<S> std::fmt::Debug for Handshake<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handshake")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// Keeps for the keys of TLS 1.3 what the next ones are made of; for [`ServerConfig::key_log`], which is the one way to hear of it.
#[derive(Debug)]
pub(super) struct KeepTraffic;

impl KeyLog for KeepTraffic {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        // rustls asks first in TLS 1.3, but not in 1.2.
        if !self.will_log(label) {
            return;
        }
        note(|seen| {
            let traffic = seen.traffic.get_or_insert_default();
            let kept = match label {
                DEVICES => &mut traffic.device,
                _ => &mut traffic.gate,
            };
            *kept = Some(OkmBlock::new(secret));
        });
    }

    fn will_log(&self, label: &str) -> bool {
        [DEVICES, GATES].contains(&label)
    }
}

/// The names of the secrets by which devices, and by which the gate, seal their data.
const DEVICES: &str = "CLIENT_TRAFFIC_SECRET_0";
const GATES: &str = "SERVER_TRAFFIC_SECRET_0";

impl Handshake {
    /// Takes a fresh socket; the handshake has yet to happen: [`Handshake::run`].
    ///
    /// # Errors
    /// When the configuration is not usable, such as a record size out of range.
    pub fn new(socket: TcpStream, config: Arc<ServerConfig>) -> Result<Self, Error> {
        let most = config.max_fragment_size;
        let tls = UnbufferedServerConnection::new(config)?;
        Ok(Self::over(socket, tls, most))
    }

    /// Does it; `came` is what has been read from the socket so far. What the device sent right behind its handshake, the front of
    /// its CONNECT mostly, is read of the connection later.
    ///
    /// `came` is computed at once, what comes later at the word of `pace`. What is learnt on the way goes into `seen`, also
    /// when it fails. Dropping it half-way drops the connection.
    ///
    /// # Errors
    /// [`Lost`]; the alert that rustls wrote has been sent as far as the socket took it.
    pub async fn run(
        &mut self,
        came: Vec<u8>,
        seen: &mut Seen,
        pace: &impl Pace,
    ) -> Result<(), Lost> {
        let process = |this: &mut Self, came: &mut [u8]| witness(seen, || this.process(came));
        self.shake_hands(came, process, pace).await
    }

    /// The connection after the handshake, which is over; `seen` is what was learnt in it.
    ///
    /// # Errors
    /// When it is not over, or `seen` is of another one.
    pub fn settle(self, seen: &mut Seen) -> Result<TlsStream, Error> {
        let suite = self.suite()?;
        let next = match suite {
            SupportedCipherSuite::Tls12(_) => Next::Never { is_server: true },
            SupportedCipherSuite::Tls13(suite) => {
                let traffic = seen.traffic.take().ok_or(Error::HandshakeNotComplete)?;
                Next::Secrets(traffic, suite)
            }
        };
        let agreed = seen.agreed.take().ok_or(Error::HandshakeNotComplete)?;
        self.settled(suite, |_| Ok((agreed.protections()?, next)))
    }
}

impl Greeting {
    /// Takes a fresh socket, and a name that the server's certificate has to be for; the handshake has yet to happen:
    /// [`Greeting::run`].
    ///
    /// # Errors
    /// When the configuration is not usable.
    pub fn towards(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        let most = config.max_fragment_size;
        let tls = UnbufferedClientConnection::new(config, name)?;
        Ok(Self::over(socket, tls, most))
    }

    /// Does it; gives the connection. Dropping it half-way drops the connection.
    ///
    /// In TLS 1.3 a server judges our certificate after that: what it thinks of it is learnt by the first read.
    ///
    /// # Errors
    /// [`Lost`]; the alert that rustls wrote has been sent as far as the socket took it.
    pub async fn run(mut self) -> Result<TlsStream, Lost> {
        self.shake_hands(Vec::new(), Self::process, &AtOnce).await?;
        let suite = self.suite()?;
        Ok(self.settled(suite, |tls| {
            let (secrets, rustls) = tls.dangerous_into_kernel_connection()?;
            let (is_13, next) = match suite {
                SupportedCipherSuite::Tls12(_) => (false, Next::Never { is_server: false }),
                SupportedCipherSuite::Tls13(_) => (true, Next::Rustls(Box::new(rustls))),
            };
            let protections = Protections {
                theirs: Protection::new(secrets.rx, is_13)?,
                ours: Protection::new(secrets.tx, is_13)?,
            };
            Ok((protections, next))
        })?)
    }
}

impl<S: Side> Handshake<S> {
    fn over(socket: TcpStream, tls: S, max_fragment_size: Option<usize>) -> Self {
        Self {
            socket,
            tls,
            // rustls counts the header, too.
            most: max_fragment_size.map_or(LARGEST, |most| most - HEADER),
            outbox: Outbox::default(),
            shown: 0,
            held: Vec::new(),
            ended: false,
            is_over: false,
        }
    }

    /// Does the handshake with what `came` so far; `process` puts what came through TLS, as [`Handshake::process`] does.
    async fn shake_hands(
        &mut self,
        mut came: Vec<u8>,
        mut process: impl FnMut(&mut Self, &mut [u8]) -> Result<usize, Error>,
        pace: &impl Pace,
    ) -> Result<(), Lost> {
        loop {
            let rest = match process(self, &mut came) {
                Ok(used) => came.split_off(used),
                Err(fault) => {
                    let _ = self.flush().await;
                    return Err(fault.into());
                }
            };
            self.flush().await?;
            came = rest;
            if !self.tls.is_handshaking() {
                self.held = came;
                self.is_over = true;
                self.held.shrink_to_fit();
                return Ok(());
            }
            if self.ended || came.len() > HELD {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.read_more(&mut came).await?;
            pace.next(self.tls.handshake_kind()).await;
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.outbox.poll_flush(&self.socket, cx)).await
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

    /// What is left of a handshake that failed: a socket that what was written last, an alert mostly, goes out by. What comes is
    /// read and forgotten.
    pub fn abandon(self) -> TlsStream {
        TlsStream::over(self.socket, None, self.outbox)
    }

    fn suite(&self) -> Result<SupportedCipherSuite, Error> {
        let suite = self.tls.negotiated_cipher_suite();
        suite
            .filter(|_| self.is_over && self.shown == 0 && !self.tls.wants_write())
            .ok_or(Error::HandshakeNotComplete)
    }

    /// The connection after the handshake, by what `take_over` takes of rustls.
    fn settled(
        self,
        suite: SupportedCipherSuite,
        take_over: impl FnOnce(S) -> Result<(Protections, Next), Error>,
    ) -> Result<TlsStream, Error> {
        let chain = self.peer_chain().to_vec();
        let (protections, next) = take_over(self.tls)?;
        let records = Records::new(protections, suite, next, self.most);
        let mut stream = TlsStream::over(self.socket, Some(records), self.outbox);
        stream.hold(self.held, self.ended, chain);
        Ok(stream)
    }

    /// Puts `came` through TLS, as far as the handshake goes; records of ours go to the outbox. Gives how many bytes of `came` are
    /// used up.
    ///
    /// rustls is shown one record more at a time: what comes behind the handshake is not its to open, since what it would do on
    /// account of that, such as to take new keys, would be lost when it is let go.
    fn process(&mut self, came: &mut [u8]) -> Result<usize, Error> {
        let (mut used, mut shown) = (0, self.shown);
        loop {
            let UnbufferedStatus { discard, state } = self.tls.step(&mut came[used..shown]);
            let state = match state {
                Ok(state) => state,
                Err(fault) => {
                    self.queue_alert(&mut came[used + discard..shown], &fault);
                    return Err(fault);
                }
            };
            let mut done = false;
            match state {
                ConnectionState::EncodeTlsData(mut record) => {
                    encode(&mut record, &mut self.outbox.unsent)?;
                }
                // What was encoded waits in the outbox, in order.
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                ConnectionState::PeerClosed => self.ended = true,
                ConnectionState::ReadEarlyData(_) | ConnectionState::ReadTraffic(_) => {
                    return Err(Error::General("data came amid the handshake".into()));
                }
                // BlockedHandshake, WriteTraffic, Closed, and whatever comes later: no more to do with these bytes.
                _ => done = true,
            }
            used += discard;
            if done && !(self.tls.is_handshaking() && show_more(&mut shown, came)) {
                self.shown = shown - used;
                return Ok(used);
            }
        }
    }

    /// After a fault: what rustls wants to tell the other side goes to the outbox. `rest` is what was not used up.
    ///
    /// Once the alert is out, rustls must not be asked again: it would go on with `rest`, and fail once more.
    fn queue_alert(&mut self, rest: &mut [u8], fault: &Error) {
        // rustls says nothing when it finds in TLS 1.2 that the device can check no signature of ours. It is before
        // any key, so the alert is plain: handshake_failure, fatal (RFC 5246 §7.2).
        if S::IS_SERVER
            && matches!(fault, Error::General(_))
            && self.tls.is_handshaking()
            && self.tls.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_2)
            && !self.tls.wants_write()
        {
            self.outbox
                .unsent
                .extend_from_slice(&[21, 3, 3, 0, 2, 2, 40]);
        }
        while self.tls.wants_write() {
            match self.tls.step(rest).state {
                Ok(ConnectionState::EncodeTlsData(mut record)) => {
                    if encode(&mut record, &mut self.outbox.unsent).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    }
}

/// Shows rustls the next record of `came`, or what is none, which is its to judge. Gives whether there was any.
fn show_more(shown: &mut usize, came: &[u8]) -> bool {
    let before = *shown;
    match Record::at(&came[before..]) {
        Ok(Some(record)) => *shown += record.length,
        Ok(None) => {}
        Err(_) => *shown = came.len(),
    }
    *shown > before
}

/// What most flights of ours fit into, in bytes: a certificate of an elliptic curve and one intermediate.
const OUR_FLIGHT: usize = 2048;

/// Adds one record of the handshake to `unsent`.
fn encode<Data>(record: &mut EncodeTlsData<'_, Data>, unsent: &mut Vec<u8>) -> Result<(), Error> {
    if unsent.capacity() == 0 {
        unsent.reserve(OUR_FLIGHT); // room for all of a flight's records at once
    }
    let start = unsent.len();
    let wants = match record.encode(&mut []) {
        Err(EncodeError::InsufficientSize(wants)) => wants.required_size,
        Ok(_) | Err(EncodeError::AlreadyEncoded) => return Ok(()),
    };
    unsent.resize(start + wants, 0);
    record
        .encode(&mut unsent[start..])
        .map(|_| ())
        .map_err(|fault| Error::General(fault.to_string()))
}

#[cfg(test)]
mod tests;
