//! The handshake: `Accepted` → `Secured`.

use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::server::Acceptor;
use rustls::server::danger::ClientCertVerifier as _;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::broker::socket::Socket;
use crate::rules::device::Mode;
use crate::rules::reason::Refusal;
use crate::tls::handshake::Handshake;
use crate::tls::server::ServerTls;
use crate::tls::stream::Lost;
use crate::tls::suites::prefers_chacha;
use crate::tls::verify::Shown;
use crate::tls::witness::{Presented, Seen};

use super::connection::Facts;
use super::door::{Caller, Door, Pieces, Turn};
use super::in_force::InForce;
use super::listener::{Listener, Secure, reset};
use super::wire::{DeviceLink, LINGER_BYTES, linger, write_all};
use super::{Gate, now};

/// How long a device that failed its handshake has to take in the alert.
const ALERT: Duration = Duration::from_secs(1);

/// A socket that was accepted, with all permits it needs.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) socket: TcpStream,
    /// The device's; before its PROXY header was read, its balancer's. Canonical.
    pub(crate) address: SocketAddr,
    /// Where the device called; known behind the PROXY header, and where brokers are told of it.
    pub(crate) to: Option<SocketAddr>,
    pub(crate) listener: Arc<Listener>,
    /// Of the worker that it stays with.
    pub(crate) door: Arc<Door>,
}

/// A link in one of the three modes; whoever showed a certificate has proved to own it.
#[derive(Debug)]
pub(crate) struct Secured {
    pub(crate) link: DeviceLink,
    pub(crate) mode: Mode,
    /// The certificate, and who vouched for it: given for, and only for, `mutual-tls`.
    pub(crate) shown: Option<Shown>,
    pub(crate) address: SocketAddr,
    /// Where the device called, where brokers are told of it.
    pub(crate) to: Option<SocketAddr>,
    /// The certificate of ours that it was shown; `None`: nothing was.
    pub(crate) presented: Option<Presented>,
    pub(crate) listener: Arc<Listener>,
    /// What it was secured by; `None`: nothing.
    pub(crate) by: Option<Arc<Secure>>,
}

impl Secured {
    /// Whether the certificates and trust groups that it met are those in force.
    pub(crate) fn is_current(&self, gate: &Gate) -> bool {
        let in_force = gate.glance();
        match (&self.by, &in_force.entrances[self.listener.place].secure) {
            (Some(by), Some(current)) => Arc::ptr_eq(by, current),
            _ => true,
        }
    }
}

/// A handshake under way.
struct Attempt {
    handshake: Box<Handshake>,
    seen: Seen,
}

impl Attempt {
    /// Notes what has been learnt so far.
    fn note(&self, facts: &mut Facts) {
        let Self { handshake, seen } = self;
        facts.sni.clone_from(&seen.sni);
        facts.tls_version = handshake.version();
        facts.cipher = handshake.cipher();
        facts.alpn = handshake
            .alpn()
            .map(|name| String::from_utf8_lossy(name).into_owned());
        facts.certificate.clone_from(&seen.certificate);
    }
}

impl Accepted {
    /// Does the handshake, if the listener offers TLS, within `handshake_timeout`. What is learnt goes to `facts`,
    /// also when it fails. Dropping it half-way drops the connection.
    ///
    /// # Errors
    /// The [`Refusal`]; the device has been sent its alert.
    pub(crate) async fn handshake(
        self,
        gate: &Gate,
        in_force: &InForce,
        facts: &mut Facts,
    ) -> Result<Secured, Refusal> {
        let Some(secure) = in_force.entrances[self.listener.place].secure.clone() else {
            facts.mode = Some(Mode::Plain);
            return Ok(Secured {
                link: DeviceLink::Plain(Socket::Tcp(self.socket)),
                mode: Mode::Plain,
                shown: None,
                address: self.address,
                to: self.to,
                presented: None,
                listener: self.listener,
                by: None,
            });
        };
        let limit = in_force.limits.handshake_timeout;
        let began = Instant::now();
        let metrics = gate.metrics.listener(self.listener.place);
        let mut attempt = None;
        let timed = timeout(
            limit,
            self.secure(secure, gate, in_force, facts, &mut attempt),
        )
        .await;
        let outcome = match timed {
            Ok(outcome) => outcome,
            Err(_) if facts.waits_for_turn => Err(Refusal::HandshakesFull {
                limit: patience(limit),
            }),
            Err(_) => Err(Refusal::HandshakeTimeout { limit }),
        };
        // A handshake cut short by its deadline is told with what was learnt before, too.
        if let Some(attempt) = &attempt {
            attempt.note(facts);
        }
        let result = outcome.as_ref().map_or_else(Refusal::label, |_| "ok");
        let version = facts.tls_version.unwrap_or("none");
        metrics.handshake(
            result,
            version,
            facts.resumed.unwrap_or(false),
            outcome.is_ok().then(|| began.elapsed()),
        );
        outcome
    }

    /// Tells a device that its TLS is too old; rustls would miss an extension that came with TLS 1.2, and say that.
    async fn refuse_version(self, minor: u8) -> Refusal {
        let alert = [21, 3, minor, 0, 2, 2, 70]; // fatal, protocol_version (RFC 8446 §6.2)
        let mut link = DeviceLink::Plain(Socket::Tcp(self.socket));
        let _ = timeout(ALERT, async {
            if write_all(&mut link, &alert).await.is_ok() {
                linger(&mut link, LINGER_BYTES).await;
            }
        })
        .await;
        Refusal::NothingInCommon {
            what: format!(
                "it speaks {} at most, and the gate TLS 1.2 and 1.3",
                TOO_OLD[usize::from(minor)]
            ),
        }
    }

    /// Waits at the door, unless the device goes away meanwhile: no signature is spent on it then (threats.md V1).
    async fn wait_for_turn(
        &self,
        tls: &ServerTls,
        hello: &[u8],
        gate: &Gate,
        in_force: &InForce,
    ) -> Result<Turn, Refusal> {
        let brokers = &in_force.fleet.brokers;
        if gate.turns_away(brokers) {
            return Err(Refusal::BrokerAway {
                waited: Duration::ZERO,
                last: "all brokers were known to be away, so its handshake was not begun".into(),
            });
        }
        if let Some(turn) = self.door.try_begin(brokers.has_room()) {
            return Ok(turn);
        }
        let caller = if tls.would_resume(hello) {
            Caller::Returning
        } else {
            Caller::New
        };
        let limit = in_force.limits.handshake_timeout;
        let (began, patience) = (Instant::now(), patience(limit));
        let _counted = gate.metrics.listener(self.listener.place).waiting();
        tokio::select! {
            biased;
            () = gone(&self.socket) => Err(Refusal::DeviceGone { during: "while it waited for its turn to handshake" }),
            turn = self.door.begin(caller) => turn.ok_or_else(|| {
                if began.elapsed() < patience {
                    Refusal::Storm
                } else {
                    Refusal::HandshakesFull { limit: patience }
                }
            }),
        }
    }

    /// Closes it before its handshake was begun. Whoever has gone hears nothing more: a reset costs half of what an ordinary close does.
    /// Whoever is sent away may wait for us: that end is to arrive, and a reset is not said twice.
    fn let_go(self, refusal: Refusal) -> Refusal {
        if matches!(refusal, Refusal::DeviceGone { .. }) {
            reset(self.socket);
        }
        refusal
    }

    async fn secure(
        mut self,
        by: Arc<Secure>,
        gate: &Gate,
        in_force: &InForce,
        facts: &mut Facts,
        attempt: &mut Option<Attempt>,
    ) -> Result<Secured, Refusal> {
        let tls = &by.tls;
        let hello = match client_hello(&mut self.socket).await {
            Ok(hello) => hello,
            Err(refusal) => return Err(self.let_go(refusal)),
        };
        if let Some(version) = too_old(&hello) {
            return Err(self.refuse_version(version).await);
        }
        // Silent sockets hold no turn: it is asked for when there is something to compute.
        facts.waits_for_turn = true;
        let turn = match self.wait_for_turn(tls, &hello, gate, in_force).await {
            Ok(turn) => turn,
            Err(refusal) => return Err(self.let_go(refusal)),
        };
        facts.waits_for_turn = false;
        let counted = gate.metrics.listener(self.listener.place).handshaking();

        // Only where ALPN is configured is a ClientHello read twice.
        let offered = tls.has_alpn().then(|| offered_alpn(&hello)).flatten();
        let offered = offered
            .as_ref()
            .map(|names| names.iter().map(Vec::as_slice));
        let config = tls.config_for(offered, prefers_chacha(&hello));
        let fault = |fault: rustls::Error| Refusal::TlsFault {
            what: fault.to_string(),
        };
        let Attempt { handshake, seen } = attempt.insert(Attempt {
            handshake: Box::new(Handshake::new(self.socket, config.clone()).map_err(fault)?),
            seen: Seen::default(),
        });
        let pieces = Pieces {
            door: &self.door,
            asks: tls.verifier().is_some(),
        };
        let outcome = handshake.run(hello, seen, &pieces).await;
        // Whoever failed and takes its time to hear it keeps nobody from computing.
        drop((turn, counted));
        let attempt = attempt.take().expect("it was just put there");
        attempt.note(facts);
        let Attempt {
            handshake,
            mut seen,
        } = attempt;
        if let Err(lost) = outcome {
            let refusal = refusal(lost, &mut seen);
            let mut link = DeviceLink::Tls(Box::new(handshake.abandon()));
            let _ = timeout(ALERT, linger(&mut link, LINGER_BYTES)).await;
            return Err(refusal);
        }
        facts.resumed = Some(handshake.resumed());
        let presented = seen.presented;
        let shown = shown(tls, &handshake, &mut seen)?;
        let mode = if let Some(shown) = &shown {
            facts.certificate = Some(shown.certificate().clone());
            facts.trust = shown.vouched().map(|vouched| vouched.group.name.clone());
            Mode::MutualTls
        } else {
            Mode::ServerTls
        };
        facts.mode = Some(mode);
        let stream = handshake.settle(&mut seen).map_err(fault)?;
        Ok(Secured {
            link: DeviceLink::Tls(Box::new(stream)),
            mode,
            shown,
            address: self.address,
            to: self.to,
            presented,
            listener: self.listener,
            by: Some(by),
        })
    }
}

/// What the device showed in this handshake, or in the one that it resumed: rustls takes that one's certificate from the
/// ticket unseen, so it is judged here like a new one (threats.md T5).
///
/// # Errors
/// What no verdict could make good.
fn shown(
    tls: &ServerTls,
    handshake: &Handshake,
    seen: &mut Seen,
) -> Result<Option<Shown>, Refusal> {
    let chain = handshake.peer_chain();
    let shown = match tls.verifier() {
        Some(verifier) if handshake.resumed() && !chain.is_empty() => {
            let again = verifier.show_again(chain, now());
            Some(again.map_err(|refused| Refusal::Certificate {
                label: refused.reason,
                why: refused.why,
            })?)
        }
        _ => seen.shown.take(),
    };
    // A certificate that nobody judged never gets here, nor a device without one where one must be shown; if either does,
    // that is a fault, not a weaker mode.
    let needed = !chain.is_empty()
        || tls
            .verifier()
            .is_some_and(|verifier| verifier.client_auth_mandatory());
    if needed != shown.is_some() {
        return Err(Refusal::GateFault);
    }
    Ok(shown)
}

/// How long a device may wait to begin its handshake, of the time that it has for all of it: who begins later has too little
/// left to end it.
pub(super) fn patience(handshake_timeout: Duration) -> Duration {
    handshake_timeout / 2
}

/// Waits until the device closes its side, or for ever. Costs a system call only when something happened.
async fn gone(socket: &TcpStream) {
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        let peeked = socket.try_io(Interest::READABLE, || {
            SockRef::from(socket).peek(&mut [MaybeUninit::uninit()])
        });
        match peeked {
            Err(fault) if fault.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
            // More has come, behind its ClientHello: an end behind that shows when it is read.
            Ok(_) => return std::future::pending().await,
        }
    }
}

/// The TLS versions before 1.2, by the minor number that stands for them.
const TOO_OLD: [&str; 3] = ["SSL 3.0", "TLS 1.0", "TLS 1.1"];

/// The place in [`TOO_OLD`] of the newest version that a ClientHello offers; `None` from TLS 1.2 on, which 1.3 calls
/// itself, too, in this field (RFC 8446 §4.1.2).
fn too_old(hello: &[u8]) -> Option<u8> {
    // Behind the record's header: type (1, ClientHello), length (3 bytes), version (RFC 5246 §7.4.1.2).
    match hello.get(5..11)? {
        [1, _, _, _, 3, minor] if usize::from(*minor) < TOO_OLD.len() => Some(*minor),
        _ => None,
    }
}

/// The longest ClientHello that is waited for, records' headers included; what is longer is rustls's to judge.
const LONGEST_HELLO: usize = 16 * 1024;

/// Reads until the ClientHello is whole, in however many records it comes: nothing is computed for a device before
/// that, and nothing is chosen by a part of it (threats.md T4).
async fn client_hello(socket: &mut TcpStream) -> Result<Vec<u8>, Refusal> {
    const GONE: Refusal = Refusal::DeviceGone {
        during: "before its ClientHello",
    };
    let mut came = Vec::new();
    loop {
        socket.readable().await.map_err(|_| GONE)?;
        came.reserve(2048); // who says nothing owns no buffer
        if socket.read_buf(&mut came).await.unwrap_or(0) == 0 {
            return Err(GONE);
        }
        // RFC 8446 §5.1: type (22, handshake), version (3, x), length (2 bytes).
        if came[0] != 22 || came.get(1).is_some_and(|&major| major != 3) {
            return Err(Refusal::NotTls { first: came[0] });
        }
        if let [_, _, _, high, low, ..] = came.as_slice() {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if length == 0 || length > 16 * 1024 {
                return Err(Refusal::NotTls { first: came[0] });
            }
        }
        if came.len() > LONGEST_HELLO || holds_whole_message(&came) {
            return Ok(came);
        }
    }
}

/// Whether the records in `came` hold a whole handshake message (RFC 8446 §4: type, length in 3 bytes), or something
/// else than handshake records that no waiting makes better.
fn holds_whole_message(mut came: &[u8]) -> bool {
    let (mut header, mut got) = ([0; 4], 0);
    while let [22, 3, _, high, low, rest @ ..] = came {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((payload, next)) = rest.split_at_checked(length) else {
            return false;
        };
        let missing = &mut header[got.min(4)..];
        missing
            .iter_mut()
            .zip(payload)
            .for_each(|(to, from)| *to = *from);
        got += length;
        let [_, high, middle, low] = header;
        if got >= 4 && got - 4 >= u32::from_be_bytes([0, high, middle, low]) as usize {
            return true;
        }
        came = next;
    }
    came.len() >= 5
}

/// The ALPN protocols that a ClientHello offers; `None` when it offers none, or is none.
fn offered_alpn(mut hello: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut acceptor = Acceptor::default();
    while !hello.is_empty() {
        acceptor.read_tls(&mut hello).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            return Some(hello.alpn()?.map(<[u8]>::to_vec).collect());
        }
    }
    None
}

/// Why a handshake failed, in words for the one who mends it.
fn refusal(lost: Lost, seen: &mut Seen) -> Refusal {
    use rustls::{Error, PeerIncompatible};
    if let Some(refused) = seen.refused.take() {
        return Refusal::Certificate {
            label: refused.reason,
            why: refused.why,
        };
    }
    match lost {
        Lost::Io(_) => Refusal::DeviceGone {
            during: "during the handshake",
        },
        Lost::Tls(Error::NoCertificatesPresented) => Refusal::NoCertificate,
        Lost::Tls(Error::AlertReceived(alert)) => Refusal::ServerRefused {
            alert: format!("{alert:?}"),
        },
        Lost::Tls(
            Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon)
            | Error::General(_),
        ) if seen.no_certificate_suits => {
            let what = "it can check the signatures of none of the server's certificates; give the listener one more, \
                        of another kind of key (listener.tls.also)";
            Refusal::NothingInCommon { what: what.into() }
        }
        Lost::Tls(Error::PeerIncompatible(what)) => Refusal::NothingInCommon {
            what: incompatible(&what),
        },
        Lost::Tls(Error::InvalidCertificate(what)) => Refusal::Certificate {
            label: "certificate_bad_signature",
            why: format!("the device did not prove that it owns its certificate: {what}"),
        },
        Lost::Tls(fault) => Refusal::TlsFault {
            what: fault.to_string(),
        },
    }
}

/// What device and gate have not in common, in words for the one who mends it.
fn incompatible(what: &rustls::PeerIncompatible) -> String {
    use rustls::PeerIncompatible as P;
    let told = match what {
        P::SupportedVersionsExtensionRequired
        | P::Tls12NotOffered
        | P::Tls12NotOfferedOrEnabled
        | P::ServerDoesNotSupportTls12Or13 => {
            "it speaks TLS 1.2 at most, and listener.tls.min_version is 1.3"
        }
        P::SignatureAlgorithmsExtensionRequired => {
            "it names no signature algorithms, as TLS 1.1 and older do; the gate speaks TLS 1.2 and 1.3"
        }
        P::NoCipherSuitesInCommon => {
            "none of its cipher suites; the gate takes ECDHE with AES-GCM or ChaCha20-Poly1305, for ECDSA or RSA as its certificates' keys are (listener.tls.also adds a certificate)"
        }
        P::NoKxGroupsInCommon | P::NamedGroupsExtensionRequired | P::KeyShareExtensionRequired => {
            "none of its key exchanges; the gate takes ECDHE over X25519, P-256 or P-384"
        }
        _ => return format!("{what:?}"),
    };
    format!("{told} ({what:?})")
}
