//! One connection of a device: TCP, TLS by rustls or none, MQTT by hand.

use std::io::{self, IoSlice, Read as _, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use super::trouble::Trouble;
use crate::mqtt::Version;
use crate::mqtt::connack::{self, Connack};

/// How much is read from a socket at once, in bytes.
const READ: usize = 16 * 1024;

/// The longest CONNACK that is taken, in bytes.
const LONGEST_CONNACK: usize = 64 * 1024;

const DISCONNECT: &[u8] = &[0xe0, 0];

/// A connection of a device to the target.
pub(super) struct Link {
    socket: TcpStream,
    layer: Layer,
}

/// What stands between MQTT and TCP.
enum Layer {
    Tls(Box<ClientConnection>),
    /// Nothing: what waits to be sent.
    Plain(Vec<u8>),
}

/// What a handshake agreed on, as numbers: version, suite, group (0: none), 1 when resumed.
pub(super) type Agreed = (u16, u16, u16, u16);

impl Link {
    /// Calls `target` from `source`, to speak TLS with the server of that name; `None`: without TLS. Dropped half-way, the
    /// call is taken back.
    pub(super) async fn dial(
        target: SocketAddr,
        source: Option<IpAddr>,
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    ) -> Result<Self, Trouble> {
        let socket = if target.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        // CONNECT follows the end of the handshake; it must not wait until that is acknowledged.
        socket.set_nodelay(true)?;
        let socket = socket.connect(target).await?;
        let layer = match tls {
            None => Layer::Plain(Vec::new()),
            Some((config, name)) => {
                let mut tls = ClientConnection::new(config, name)?;
                // Who writes here flushes; a message larger than the usual buffer must go in whole.
                tls.set_buffer_limit(None);
                Layer::Tls(Box::new(tls))
            }
        };
        Ok(Self { socket, layer })
    }

    /// Does the device's part of the handshake; `None`: there is no TLS, and so none. In TLS 1.3 the server has not judged
    /// the device's certificate yet when that is done.
    pub(super) async fn handshake(&mut self) -> Result<Option<Agreed>, Trouble> {
        loop {
            self.flush().await?;
            match &self.layer {
                Layer::Plain(_) => return Ok(None),
                Layer::Tls(tls) if !tls.is_handshaking() => return Ok(Some(agreed(tls))),
                Layer::Tls(_) => {}
            }
            if self.read(&mut Vec::new()).await? == Heard::End {
                return Err(Trouble::closed());
            }
        }
    }

    /// Whether the server may still say no to a handshake that is done on this side.
    pub(super) fn verdict_is_open(&self) -> bool {
        match &self.layer {
            Layer::Tls(tls) => tls.protocol_version() == Some(ProtocolVersion::TLSv1_3),
            Layer::Plain(_) => false,
        }
    }

    /// Hears what the server made of the handshake: tells it that nothing will follow, and waits for its answer.
    ///
    /// A server reads in order, so it has judged the certificate before it comes to our close_notify. If it answers with
    /// a session ticket or its own close_notify, the device was taken. An alert is a refusal. A bare end is `closed`: it
    /// could be either.
    pub(super) async fn verdict(&mut self) -> Result<(), Trouble> {
        self.close_notify();
        self.flush().await?;
        loop {
            match self.read(&mut Vec::new()).await? {
                Heard::Something => {}
                Heard::Goodbye => return Ok(()),
                Heard::End if self.has_a_ticket() => return Ok(()),
                Heard::End => return Err(Trouble::closed()),
            }
        }
    }

    fn close_notify(&mut self) {
        if let Layer::Tls(tls) = &mut self.layer {
            tls.send_close_notify();
        }
    }

    fn has_a_ticket(&self) -> bool {
        matches!(&self.layer, Layer::Tls(tls) if tls.tls13_tickets_received() > 0)
    }

    /// Sends CONNECT, and reads the CONNACK.
    pub(super) async fn connect(
        &mut self,
        connect: &[u8],
        version: Version,
    ) -> Result<(), Trouble> {
        self.say(connect)?;
        self.flush().await?;
        let mut heard = Vec::new();
        loop {
            let ended = self.read(&mut heard).await? != Heard::Something;
            let other = |why| Trouble::said("other", &why);
            if let Some(length) = connack::measure(&heard, LONGEST_CONNACK).map_err(other)? {
                let connack = Connack::decode(&heard[..length], version).map_err(other)?;
                return match connack.code {
                    0 => Ok(()),
                    code => Err(Trouble::said(
                        "connack_refused",
                        &format_args!("code 0x{code:02x}"),
                    )),
                };
            }
            if ended {
                return Err(Trouble::closed());
            }
        }
    }

    /// Closes as a device does: DISCONNECT if it was `connected`, close_notify, the end of TCP. Waits for nothing.
    pub(super) fn bye(mut self, connected: bool) {
        if connected {
            let _ = self.say(DISCONNECT);
        }
        self.close_notify();
        let _ = self.poll_flush(&mut Context::from_waker(std::task::Waker::noop()));
    }

    /// Puts `plain` into records of its own, to be sent by the next flush.
    pub(super) fn say(&mut self, plain: &[u8]) -> io::Result<()> {
        match &mut self.layer {
            Layer::Tls(tls) => tls.writer().write_all(plain),
            Layer::Plain(unsent) => unsent.write_all(plain),
        }
    }

    /// Sends what waits to be sent. Dropped half-way, the rest still waits.
    pub(super) async fn flush(&mut self) -> Result<(), Trouble> {
        let sent = std::future::poll_fn(|cx| self.poll_flush(cx)).await;
        match sent {
            Ok(()) => Ok(()),
            // A server that refuses closes while we are still talking; what it said before is in our buffer.
            Err(fault) => {
                let last = std::future::poll_fn(|cx| self.poll_read(cx, &mut Vec::new()));
                match tokio::time::timeout(std::time::Duration::ZERO, last).await {
                    Ok(Err(trouble)) if trouble.word != "reset" => Err(trouble),
                    _ => Err(fault.into()),
                }
            }
        }
    }

    /// [`Link::flush`], as a poll.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut out = Out(&mut self.socket, cx);
        loop {
            let written = match &mut self.layer {
                Layer::Tls(tls) if tls.wants_write() => tls.write_tls(&mut out),
                Layer::Plain(unsent) if !unsent.is_empty() => {
                    out.write(unsent).map(|sent| unsent.drain(..sent).len())
                }
                _ => return Poll::Ready(Ok(())),
            };
            match written {
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(fault) => return Poll::Ready(Err(fault)),
                Ok(_) => {}
            }
        }
    }

    /// Reads what has come; plaintext is added to `plain`. Dropped half-way, nothing is lost.
    pub(super) async fn read(&mut self, plain: &mut Vec<u8>) -> Result<Heard, Trouble> {
        std::future::poll_fn(|cx| self.poll_read(cx, plain)).await
    }

    /// [`Link::read`], as a poll.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        plain: &mut Vec<u8>,
    ) -> Poll<Result<Heard, Trouble>> {
        let mut room = [const { MaybeUninit::<u8>::uninit() }; READ];
        let mut buffer = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        let mut sealed = buffer.filled();
        if sealed.is_empty() {
            return Poll::Ready(Ok(Heard::End));
        }
        let Layer::Tls(tls) = &mut self.layer else {
            plain.extend_from_slice(sealed);
            return Poll::Ready(Ok(Heard::Something));
        };
        while !sealed.is_empty() {
            tls.read_tls(&mut sealed)?;
            let state = match tls.process_new_packets() {
                Ok(state) => state,
                Err(fault) => {
                    // The alert that tells the server why.
                    let _ = self.poll_flush(cx);
                    return Poll::Ready(Err(fault.into()));
                }
            };
            let at = plain.len();
            plain.resize(at + state.plaintext_bytes_to_read(), 0);
            tls.reader().read_exact(&mut plain[at..])?;
            if state.peer_has_closed() {
                return Poll::Ready(Ok(Heard::Goodbye));
            }
        }
        Poll::Ready(Ok(Heard::Something))
    }
}

fn agreed(tls: &ClientConnection) -> Agreed {
    let suite = tls.negotiated_cipher_suite();
    let group = tls.negotiated_key_exchange_group();
    (
        tls.protocol_version().map_or(0, u16::from),
        suite.map_or(0, |suite| u16::from(suite.suite())),
        group.map_or(0, |group| u16::from(group.name())),
        u16::from(tls.handshake_kind() == Some(HandshakeKind::Resumed)),
    )
}

/// What a read brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Heard {
    /// Bytes, of which some may be plaintext.
    Something,
    /// The server's close_notify; plaintext may have come before it.
    Goodbye,
    /// The end of TCP, without close_notify.
    End,
}

/// A socket as rustls writes to it: whoever has to wait is woken.
struct Out<'a, 'b, 'c>(&'a mut TcpStream, &'b mut Context<'c>);

impl Write for Out<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        blocking(Pin::new(&mut *self.0).poll_write(self.1, bytes))
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        blocking(Pin::new(&mut *self.0).poll_write_vectored(self.1, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn blocking(poll: Poll<io::Result<usize>>) -> io::Result<usize> {
    match poll {
        Poll::Ready(done) => done,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
