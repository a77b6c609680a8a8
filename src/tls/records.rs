//! TLS after the handshake: records in and out, alerts, and new keys.
//!
//! rustls does the handshake. Once it is over, its connection takes 2 KiB more than what has to be remembered: a key and a number for each
//! direction, and in TLS 1.3 the secrets that the next keys are made of. So it is let go, and what it would have done
//! from there on is done here, as its documentation of [`rustls::kernel`] says: RFC 8446 §4.6.3 (key updates), §5 (records), §6
//! (alerts); RFC 5246 §6.2 and §7.2 for TLS 1.2. The ciphers are those of [`super::protection`].

use rustls::client::ClientConnectionData;
use rustls::crypto::tls13::OkmBlock;
use rustls::kernel::KernelConnection;
use rustls::{
    AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved,
    SupportedCipherSuite, Tls13CipherSuite,
};
use zeroize::Zeroizing;

use super::protection::{LARGEST, Protection, Protections, Record};

/// The kinds of records (RFC 8446 §5.1).
pub(super) mod kind {
    pub(in super::super) const CHANGE_CIPHER_SPEC: u8 = 20;
    pub(in super::super) const ALERT: u8 = 21;
    pub(in super::super) const HANDSHAKE: u8 = 22;
    pub(in super::super) const DATA: u8 = 23;
}

const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// The header of a handshake message, in bytes: type, length (3).
const MESSAGE_HEADER: usize = 4;

/// The longest handshake message that is heard after the handshake, a ticket of a broker's, in bytes.
const LONGEST_MESSAGE: usize = 64 * 1024;

/// How many records without data may follow each other.
///
/// Each costs us more than whoever sends it (threats.md T2); as many as rustls takes.
const MOST_IDLE: u8 = 32;

/// The secrets that the next keys of TLS 1.3 are made of (RFC 8446 §7.2).
#[derive(Default)]
pub(super) struct Traffic {
    pub(super) device: Option<OkmBlock>,
    pub(super) gate: Option<OkmBlock>,
}

impl std::fmt::Debug for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Traffic")
    }
}

/// Who makes the next keys.
pub(super) enum Next {
    /// TLS 1.2 knows none.
    Never {
        /// Whether the other side is the one that may ask for another handshake by a ClientHello, in vain.
        is_server: bool,
    },
    /// Towards a device: the secrets, and the suite that they go by.
    Secrets(Box<Traffic>, &'static Tls13CipherSuite),
    /// Towards a broker: rustls, which keeps the tickets that the broker gives, too.
    Rustls(Box<KernelConnection<ClientConnectionData>>),
}

/// The two directions of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Towards {
    Us,
    Them,
}

/// How far some bytes were read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Opened {
    /// So many bytes are used up.
    pub(super) used: usize,
    /// The other side has closed by `close_notify`: what comes behind it is nothing (RFC 8446 §6.1).
    pub(super) ended: bool,
}

/// A handshake message.
struct Message<'a> {
    kind: HandshakeType,
    body: &'a [u8],
    /// What came behind it.
    behind: &'a [u8],
}

/// A connection after its handshake.
pub(super) struct Records {
    theirs: Protection,
    ours: Protection,
    next: Next,
    /// The most plaintext in a record of ours, in bytes.
    most: usize,
    /// So many records one key of ours may seal.
    uses: u64,
    /// The front of a handshake message that is not whole yet.
    message: Vec<u8>,
    /// So many records without data came in a row.
    idle: u8,
    /// They asked for a new key of ours, too.
    owes_key: bool,
}

impl Records {
    /// Takes over what rustls agreed upon: what opens their records, and what seals ours. `most` is the most plaintext of a record
    /// of ours, in bytes; at most 16 KiB.
    pub(super) fn new(
        Protections { theirs, ours }: Protections,
        suite: SupportedCipherSuite,
        next: Next,
        most: usize,
    ) -> Self {
        let uses = match suite {
            SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
            SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
        };
        Self {
            theirs,
            ours,
            next,
            most: most.min(LARGEST),
            uses,
            message: Vec::new(),
            idle: 0,
            owes_key: false,
        }
    }

    /// Opens the whole records at the front of `came`, in place: their data is added to `plain`, and what has to be answered to
    /// `answers`, the alert after a fault included. While something is in there that they have not taken yet, what can wait does.
    ///
    /// # Errors
    /// [`Error::AlertReceived`], or what was wrong: nothing may be asked of it any more. What came before the fault is in `plain`.
    pub(super) fn open(
        &mut self,
        came: &mut [u8],
        plain: &mut Vec<u8>,
        answers: &mut Vec<u8>,
    ) -> Result<Opened, Error> {
        let opened = self.open_each(came, plain, answers);
        if let Err(fault) = &opened
            && let Some(alert) = alert(fault)
        {
            let _ = self.ours.seal(kind::ALERT, &[FATAL, alert.into()], answers);
        }
        opened
    }

    fn open_each(
        &mut self,
        came: &mut [u8],
        plain: &mut Vec<u8>,
        answers: &mut Vec<u8>,
    ) -> Result<Opened, Error> {
        let mut used = 0;
        let mut ended = false;
        while let Some(record) = Record::at(&came[used..])? {
            let whole = &mut came[used..used + record.length];
            used += record.length;
            if ended {
                continue;
            }
            if self.is_13() && record.kind != kind::DATA {
                return Err(unexpected(record.kind));
            }
            let (kind, inside) = self.theirs.open(record.kind, whole)?;
            if kind == kind::DATA && !inside.is_empty() {
                self.idle = 0;
            } else {
                self.idle += 1;
            }
            if self.idle > MOST_IDLE {
                return Err(self.too_many(kind));
            }
            if kind != kind::HANDSHAKE && !self.message.is_empty() {
                return Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
            }
            match kind {
                kind::DATA => plain.extend_from_slice(inside),
                // Only data may be empty (RFC 8446 §5.4).
                kind::ALERT | kind::HANDSHAKE if inside.is_empty() => return Err(unexpected(kind)),
                kind::ALERT => ended = self.alerted(inside)?,
                kind::HANDSHAKE => {
                    self.message.extend_from_slice(inside);
                    self.hear(answers)?;
                }
                other => return Err(unexpected(other)),
            }
        }
        // Who does not read what it asks for has one answer under way, however often it asks (threats.md V7).
        if self.owes_key && answers.is_empty() {
            self.renew_ours(answers)?;
        }
        Ok(Opened { used, ended })
    }

    /// Adds `plain` to `out`, in as many records as it needs.
    ///
    /// # Errors
    /// When the key has sealed as much as it may and there is no next one: in TLS 1.2, after 16 million records of AES-GCM.
    pub(super) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        for piece in plain.chunks(self.most) {
            if self.owes_key || self.ours.number() >= self.uses {
                self.renew_ours(out)?;
            }
            self.ours.seal(kind::DATA, piece, out)?;
        }
        Ok(())
    }

    /// Adds a `close_notify` to `out`.
    ///
    /// # Errors
    /// When no number is left for it.
    pub(super) fn close_notify(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.warn(AlertDescription::CloseNotify, out)
    }

    #[cfg(test)]
    pub(super) fn wear_out(&mut self, records: u64) {
        self.uses = self.ours.number() + records;
    }

    fn is_13(&self) -> bool {
        !matches!(self.next, Next::Never { .. })
    }

    fn warn(&mut self, alert: AlertDescription, out: &mut Vec<u8>) -> Result<(), Error> {
        self.ours.seal(kind::ALERT, &[WARNING, alert.into()], out)
    }

    /// What there was too much of, when a record of that kind was the last of many.
    fn too_many(&self, kind: u8) -> Error {
        match kind {
            kind::HANDSHAKE if self.is_13() => PeerMisbehaved::TooManyKeyUpdateRequests,
            kind::HANDSHAKE => PeerMisbehaved::TooManyRenegotiationRequests,
            kind::ALERT => PeerMisbehaved::TooManyWarningAlertsReceived,
            _ => PeerMisbehaved::TooManyEmptyFragments,
        }
        .into()
    }

    /// Judges an alert; tells whether the other side has closed.
    fn alerted(&self, alert: &[u8]) -> Result<bool, Error> {
        let [level, description] = *alert else {
            return Err(InvalidMessage::MessageTooShort.into());
        };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => Ok(true),
            // The only other one that ends nothing in TLS 1.3, where levels say nothing (RFC 8446 §6, §6.1).
            AlertDescription::UserCanceled if self.is_13() => Ok(false),
            // TLS 1.2 has many, and they are warnings (RFC 5246 §7.2.2).
            _ if level == WARNING && !self.is_13() => Ok(false),
            alert => Err(Error::AlertReceived(alert)),
        }
    }

    /// Heeds the handshake messages in `message` that are whole.
    fn hear(&mut self, answers: &mut Vec<u8>) -> Result<(), Error> {
        let heard = std::mem::take(&mut self.message);
        let mut rest = heard.as_slice();
        while let Some(Message { kind, body, behind }) = self.message_at(rest)? {
            rest = behind;
            match (kind, &mut self.next) {
                (HandshakeType::KeyUpdate, Next::Secrets(..) | Next::Rustls(_)) => {
                    self.owes_key |= match body {
                        [0] => false,
                        [1] => true,
                        _ => return Err(InvalidMessage::InvalidKeyUpdate.into()),
                    };
                    // A message under two keys is none (RFC 8446 §5.1).
                    if !behind.is_empty() {
                        return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
                    }
                    self.theirs = self.renewed(Towards::Us)?;
                }
                (HandshakeType::NewSessionTicket, Next::Rustls(rustls)) => {
                    rustls.handle_new_session_ticket(body)?;
                }
                // Nobody shakes hands twice: it is told so, and may go on (RFC 5246 §7.2.2).
                (HandshakeType::ClientHello, Next::Never { is_server: true })
                | (HandshakeType::HelloRequest, Next::Never { is_server: false }) => {
                    if answers.is_empty() {
                        self.warn(AlertDescription::NoRenegotiation, answers)?;
                    }
                }
                (got_type, _) => {
                    return Err(Error::InappropriateHandshakeMessage {
                        expect_types: Vec::new(),
                        got_type,
                    });
                }
            }
        }
        if !rest.is_empty() {
            self.message = rest.to_vec();
        }
        Ok(())
    }

    /// The handshake message at the front of `heard`; `None`: it is not whole yet.
    ///
    /// # Errors
    /// When it is longer than any that could be heeded.
    fn message_at<'a>(&self, heard: &'a [u8]) -> Result<Option<Message<'a>>, Error> {
        let [kind, high, middle, low, rest @ ..] = heard else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
        if length > LONGEST_MESSAGE - MESSAGE_HEADER {
            return Err(InvalidMessage::HandshakePayloadTooLarge.into());
        }
        // Of a device's messages, none is waited for that could not be heeded: it holds no memory for it.
        let kind = HandshakeType::from(*kind);
        let is_heeded = match &self.next {
            Next::Secrets(..) => (kind, length) == (HandshakeType::KeyUpdate, 1),
            Next::Never { is_server: true } => kind == HandshakeType::ClientHello,
            Next::Never { is_server: false } => kind == HandshakeType::HelloRequest,
            Next::Rustls(_) => true,
        };
        if !is_heeded {
            return Err(Error::InappropriateHandshakeMessage {
                expect_types: Vec::new(),
                got_type: kind,
            });
        }
        Ok(rest
            .split_at_checked(length)
            .map(|(body, behind)| Message { kind, body, behind }))
    }

    /// Says that our next record is under a new key, and makes it.
    fn renew_ours(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        if !self.is_13() {
            return Err(Error::EncryptError);
        }
        // A KeyUpdate of one byte: theirs may stay as it is.
        let update = [HandshakeType::KeyUpdate.into(), 0, 0, 1, 0];
        self.ours.seal(kind::HANDSHAKE, &update, out)?;
        self.ours = self.renewed(Towards::Them)?;
        self.owes_key = false;
        Ok(())
    }

    /// The next key of one direction.
    fn renewed(&mut self, towards: Towards) -> Result<Protection, Error> {
        let current = match towards {
            Towards::Us => &self.theirs,
            Towards::Them => &self.ours,
        };
        match &mut self.next {
            Next::Never { .. } => Err(Error::EncryptError),
            Next::Secrets(traffic, suite) => {
                let secret = match towards {
                    Towards::Us => &mut traffic.device,
                    Towards::Them => &mut traffic.gate,
                };
                let current_secret = secret.take().ok_or(Error::HandshakeNotComplete)?;
                let (next, key, iv) = next_generation(&current_secret, suite, current.key_length());
                *secret = Some(next);
                current.renewed(key.as_ref(), iv.as_ref())
            }
            Next::Rustls(rustls) => {
                let secrets = match towards {
                    Towards::Us => rustls.update_rx_secret()?,
                    Towards::Them => rustls.update_tx_secret()?,
                };
                Protection::new(secrets, true)
            }
        }
    }
}

/// The next secret, and the key and initialisation vector that are made of it (RFC 8446 §7.2, §7.3).
fn next_generation(
    secret: &OkmBlock,
    suite: &Tls13CipherSuite,
    key_length: usize,
) -> (OkmBlock, OkmBlock, Zeroizing<[u8; 12]>) {
    let hkdf = suite.hkdf_provider;
    let expander = hkdf.expander_for_okm(secret);
    let next = labelled(b"traffic upd", expander.hash_len(), |info| {
        expander.expand_block(info)
    });
    let expander = hkdf.expander_for_okm(&next);
    let expanded = |label: &[u8], bytes: &mut [u8]| {
        labelled(label, bytes.len(), |info| {
            expander.expand_slice(info, bytes)
        })
        .expect("keys are shorter than what a hash can make");
    };
    let (mut key, mut iv) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 12]));
    let key = &mut key[..key_length];
    expanded(b"key", key);
    expanded(b"iv", iv.as_mut());
    (next, OkmBlock::new(key), iv)
}

/// HKDF-Expand-Label without a context (RFC 8446 §7.1).
fn labelled<T>(label: &[u8], length: usize, expand: impl FnOnce(&[&[u8]]) -> T) -> T {
    const PREFIX: &[u8] = b"tls13 ";
    let length = u16::try_from(length).expect("keys are short").to_be_bytes();
    let label_length = u8::try_from(PREFIX.len() + label.len()).expect("labels are short");
    expand(&[&length, &[label_length], PREFIX, label, &[0]])
}

/// What did not belong there.
fn unexpected(kind: u8) -> Error {
    Error::InappropriateMessage {
        expect_types: vec![ContentType::ApplicationData],
        got_type: kind.into(),
    }
}

/// What the other side is told of a fault; `None`: nothing, as it has ended the connection itself, or cannot be told.
fn alert(fault: &Error) -> Option<AlertDescription> {
    use AlertDescription as A;
    Some(match fault {
        Error::AlertReceived(_) | Error::EncryptError => return None,
        Error::DecryptError => A::BadRecordMac,
        Error::PeerSentOversizedRecord | Error::InvalidMessage(InvalidMessage::MessageTooLarge) => {
            A::RecordOverflow
        }
        Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate) => A::IllegalParameter,
        Error::InvalidMessage(_) => A::DecodeError,
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_) => A::UnexpectedMessage,
        _ => A::InternalError,
    })
}

/// Puts what a device might seal through the gate's side, with keys that nobody agreed upon.
///
/// The first byte says which version; then, again and again, a kind, a length, and so many bytes. Kind 0 is nothing that was sealed.
#[cfg(fuzzing)]
pub(super) fn open_whatever(data: &[u8]) {
    use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256 as SUITE;

    let Some((version, mut rest)) = data.split_first() else {
        return;
    };
    let is_13 = version % 2 == 1;
    let end = || Records {
        theirs: Protection::made_up(is_13),
        ours: Protection::made_up(is_13),
        next: match SUITE {
            SupportedCipherSuite::Tls13(suite) if is_13 => {
                let secret = || Some(OkmBlock::new(&[0; 32]));
                let (device, gate) = (secret(), secret());
                Next::Secrets(Box::new(Traffic { device, gate }), suite)
            }
            _ => Next::Never { is_server: true },
        },
        most: LARGEST,
        uses: 1 << 24,
        message: Vec::new(),
        idle: 0,
        owes_key: false,
    };
    let (mut gate, mut device) = (end(), end());
    let (mut bytes, mut plain, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    while let [kind, length, behind @ ..] = rest {
        let (said, behind) = behind.split_at(behind.len().min(usize::from(*length)));
        rest = behind;
        match kind {
            0 => bytes.extend_from_slice(said),
            kind => device
                .ours
                .seal(*kind, said, &mut bytes)
                .expect("numbers are left"),
        }
        let Ok(opened) = gate.open(&mut bytes, &mut plain, &mut answers) else {
            return;
        };
        bytes.drain(..opened.used);
        assert!(plain.len() <= data.len() && gate.message.len() <= data.len());
    }
}

#[cfg(test)]
mod tests;
