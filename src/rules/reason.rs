//! Every way a connection can end: the CONNACK code, the sentence for the log, the word for the dashboard.

use std::time::Duration;

use crate::mqtt::Version;
use crate::mqtt::connect::Fault;
use crate::mqtt::{Kind, Malformed};
use crate::proxy_protocol;

use super::device::{DeviceId, Mode};
use super::identity::Unnamed;
use super::jwt;
use super::policy::TokenPlace;
use super::template::Unrenderable;

/// Why a device was turned away before it was linked to a broker.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// As many connections are open as may be.
    #[error(
        "the house is full: limits.connections ({most}) are open; the device should come back later"
    )]
    Full {
        /// `limits.connections`
        most: u32,
    },
    /// As many connections are open from its address as may be.
    #[error(
        "limits.connections_per_address ({most}) are open from this address, or from its /64 (IPv6)"
    )]
    AddressFull {
        /// `limits.connections_per_address`
        most: u32,
    },
    /// Connections come too fast from its address.
    #[error(
        "more than limits.accepts_per_address ({most} a second) came from this address, or from its /64 (IPv6)"
    )]
    AddressRate {
        /// `limits.accepts_per_address`
        most: u32,
    },
    /// It calls from a network from which a PROXY header must come, and sent none, or a bad one.
    #[error("{}", proxy_header(*.0))]
    ProxyHeader(proxy_protocol::Malformed),
    /// No whole PROXY header came in time.
    #[error(
        "no whole PROXY header came within {limit:?}, and listener.proxy_protocol_from requires one from this address; let the balancer send it"
    )]
    ProxyHeaderTimeout {
        /// How long it was waited for.
        limit: Duration,
    },
    /// It spoke something else than TLS on a TLS listener.
    #[error("what came starts no TLS handshake: the first byte was {first:#04x}{}", hint(*first))]
    NotTls {
        /// The first byte that came.
        first: u8,
    },
    /// The handshake was not over in time.
    #[error(
        "the TLS handshake was not over within {limit:?}; slow devices need a longer limits.handshake_timeout"
    )]
    HandshakeTimeout {
        /// `limits.handshake_timeout`
        limit: Duration,
    },
    /// It waited for its turn to handshake until its time was over.
    #[error(
        "{limit:?} went by, half of limits.handshake_timeout, and its turn to handshake did not come: more devices call than the cores, \
         limits.handshakes, or a broker that came back a moment ago can take"
    )]
    HandshakesFull {
        /// Half of `limits.handshake_timeout`
        limit: Duration,
    },
    /// Too many wait for their turn.
    #[error(
        "more devices call than the cores can handshake with, and the newest go first; the device should come back later"
    )]
    Storm,
    /// It went away before it was admitted.
    #[error("the device went away {during}")]
    DeviceGone {
        /// What was under way: "during the handshake", "before a whole CONNECT" …
        during: &'static str,
    },
    /// A certificate is needed and none was shown.
    #[error(
        "the device showed no certificate, and this listener takes mutual-tls only; give the device a certificate, or use mode = \"mixed-tls\""
    )]
    NoCertificate,
    /// Its certificate is not good.
    #[error("{why}")]
    Certificate {
        /// One of [`CERTIFICATE_REASONS`].
        label: &'static str,
        /// Which certificate of the chain, which rule, and the way out.
        why: String,
    },
    /// It refused our certificate.
    #[error(
        "the device ended TLS with the alert {alert}: it does not take the server's certificate or parameters; check the CA in the device and the name it dials"
    )]
    ServerRefused {
        /// The alert's name.
        alert: String,
    },
    /// No TLS version, cipher suite, group or signature scheme in common.
    #[error("device and gate have no TLS parameters in common: {what}")]
    NothingInCommon {
        /// Which parameter.
        what: String,
    },
    /// The rules of TLS were broken, in the handshake or before the CONNECT was whole.
    #[error("TLS failed: {what}")]
    TlsFault {
        /// rustls's word on it.
        what: String,
    },
    /// No whole CONNECT came in time.
    #[error("no whole CONNECT within {limit:?}, {got} bytes came")]
    ConnectTimeout {
        /// `limits.connect_timeout`
        limit: Duration,
        /// How many bytes had come.
        got: usize,
    },
    /// What came is no good CONNECT.
    #[error("{}", .0.malformed)]
    Connect(Fault),
    /// An MQTT 5 device asked for enhanced authentication.
    #[error(
        "the device asks for enhanced authentication (MQTT 5.0 §4.12), which the gate does not take; let it connect without an Authentication Method"
    )]
    EnhancedAuthentication,
    /// The certificate names no device.
    #[error("{0}")]
    Unnamed(Unnamed),
    /// A device without a certificate that brings no token.
    #[error("a {mode} device is known by its token, and {}", no_token(*taken))]
    NoToken {
        /// The mode it came by.
        mode: Mode,
        /// Where a token is looked for; `None`: the gate takes none.
        taken: Option<TokenPlace>,
    },
    /// Its token is none, or nobody's, or another device's.
    #[error("the token is not good: {why}")]
    TokenBad {
        /// What is wrong, without a word of the token.
        why: String,
    },
    /// Its token has ended.
    #[error("the token has ended: {why}; give the device a new one")]
    TokenExpired {
        /// What ended it.
        why: String,
    },
    /// Its JWT is not good.
    #[error("the JWT is not good: {0}")]
    Jwt(jwt::Bad),
    /// It showed a certificate and a token, of two devices.
    #[error(
        "the device's certificate is {certificate}'s, and its token {token}'s; give it one identity"
    )]
    CredentialsDisagree {
        /// Who the certificate says it is.
        certificate: DeviceId,
        /// Who the token says it is.
        token: DeviceId,
    },
    /// The registry does not know it.
    #[error("{}", unknown(device.as_ref()))]
    DeviceUnknown {
        /// Who it says it is.
        device: Option<DeviceId>,
        /// It brought a token only.
        by_token: bool,
    },
    /// Its owner has disabled it.
    #[error("{device} is {}; `tidegate device enable {device}` lets it in", disabled(*waits))]
    DeviceDisabled {
        /// Who it is.
        device: DeviceId,
        /// It registered itself, and its owner has not said yes yet.
        waits: bool,
    },
    /// It came by a weaker mode than its owner allows.
    #[error(
        "{device} came by {mode}, and its owner allows {least} at least; `tidegate device set {device} --min-mode {mode}` would let it in"
    )]
    ModeNotAllowed {
        /// Who it is.
        device: DeviceId,
        /// The mode it came by.
        mode: Mode,
        /// Its `min_mode`.
        least: Mode,
    },
    /// The certificate it showed is not one of its own in the registry.
    #[error(
        "{device} may not enter with this certificate: {why}; `tidegate device show {device}` tells what it may show"
    )]
    CertificateNotRegistered {
        /// Who it is.
        device: DeviceId,
        /// How it differs.
        why: String,
    },
    /// The registry has ended the credential, or it does not begin yet.
    #[error("credential {number} of {device} {}; `tidegate device show {device}` tells when it counts", ended(*early))]
    CredentialExpired {
        /// Who it is.
        device: DeviceId,
        /// The credential's number.
        number: u32,
        /// It does not begin yet.
        early: bool,
    },
    /// The registry cannot be asked.
    #[error("the registry cannot say now who the device is, so it was told to come back: {why}")]
    RegistryAway {
        /// What is known of the cause.
        why: String,
    },
    /// No more devices may register themselves.
    #[error("{why}")]
    RegistrationFull {
        /// Which trust group, and the way out.
        why: String,
    },
    /// Its owner changed something while it was on its way in.
    #[error("{0}, while it was on its way in")]
    Revoked(Cause),
    /// It asked for another client id than its own.
    #[error(
        "{device} asked to be {asked:?}, which connect.asked_client_id = \"device\" does not allow; let it ask for its own id or none"
    )]
    ClientIdNotOwn {
        /// Who it is.
        device: DeviceId,
        /// Who it asked to be.
        asked: String,
    },
    /// A name for the broker cannot be made from what the device sent.
    #[error("{0}")]
    Unrenderable(Unrenderable),
    /// The rewritten CONNECT does not fit MQTT, or the CONNACK that tells the client id does not fit the device.
    #[error("what the gate has to write does not fit: {0}")]
    RewriteTooLong(String),
    /// No broker took the connection.
    #[error("no broker took the connection (tried for {}): {last}", rough(*waited))]
    BrokerAway {
        /// How long it was tried.
        waited: Duration,
        /// What the last one tried said.
        last: String,
    },
    /// The broker took the CONNECT and said nothing.
    #[error("the broker sent no CONNACK within {limit:?}")]
    BrokerSilent {
        /// `limits.connect_timeout`
        limit: Duration,
    },
    /// The broker went away instead of answering.
    #[error("the broker closed the connection before its CONNACK: {what}")]
    BrokerClosed {
        /// How: end of stream, or the error.
        what: String,
    },
    /// What the broker answered is no CONNACK.
    #[error("the broker answered something else than a CONNACK: {0}")]
    BrokerGarbage(Malformed),
    /// The gate is draining.
    #[error("the gate is draining; the device should come back to another")]
    Draining,
    /// The gate has no descriptor left, for the broker's leg or for the device itself.
    #[error(
        "the gate is out of file descriptors; raise its limit (LimitNOFILE) or lower limits.connections"
    )]
    OutOfDescriptors,
    /// The gate has no local port left for the broker's leg.
    #[error("no broker could be dialled: {why}")]
    OutOfPorts {
        /// For which broker, and the way out.
        why: String,
    },
    /// A fault of ours.
    #[error("a fault in the gate ended this connection; please report it")]
    GateFault,
}

fn no_token(taken: Option<TokenPlace>) -> &'static str {
    match taken {
        None => "this gate takes none; connect with a certificate",
        Some(TokenPlace::Password) => "it brought none as its password",
        Some(TokenPlace::Username) => "it brought none as its username",
    }
}

fn unknown(device: Option<&DeviceId>) -> String {
    match device {
        Some(device) => format!("the registry does not know {device}; `tidegate device add {device}` registers it"),
        None => "the registry does not know the device; `tidegate device add ID --pin FILE` registers it by its certificate".into(),
    }
}

fn disabled(waits: bool) -> &'static str {
    if waits {
        "registered by itself, and waits for its owner's word"
    } else {
        "disabled"
    }
}

fn ended(early: bool) -> &'static str {
    if early {
        "does not count yet"
    } else {
        "has ended"
    }
}

fn proxy_header(malformed: proxy_protocol::Malformed) -> String {
    use proxy_protocol::Malformed;
    match malformed {
        Malformed::Missing => {
            "what came first is no PROXY header, and listener.proxy_protocol_from requires one from this address; let the balancer \
             send it, or leave the address out, if it is a device's"
                .into()
        }
        bad => format!("the PROXY header is not good: {bad}"),
    }
}

fn hint(first: u8) -> &'static str {
    match first {
        0x10 => ": it looks like MQTT without TLS",
        b'P' => {
            ": it looks like HTTP, or the PROXY protocol of a balancer whose network is not in listener.proxy_protocol_from"
        }
        b'\r' => {
            ": it looks like the PROXY protocol of a balancer whose network is not in listener.proxy_protocol_from"
        }
        b'G' | b'H' => ": it looks like HTTP",
        0x16 => ": but what follows it is no record of one",
        _ => "",
    }
}

/// Where a refusal is told: the steps of the path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// At the door, before any cryptography; the device sees a reset.
    Accept,
    /// TLS handshake; the device sees an alert or a close.
    Handshake,
    /// Reading CONNECT.
    Connect,
    /// Identity and verdict.
    Verdict,
    /// Finding a broker and its CONNACK.
    Broker,
    /// From the CONNACK to the close.
    Relay,
}

/// The words of a certificate refused in the handshake.
pub const CERTIFICATE_REASONS: [&str; 11] = [
    "certificate_expired",
    "certificate_not_yet_valid",
    "certificate_unknown_issuer",
    "certificate_revoked",
    "crl_stale",
    "crl_missing",
    "certificate_bad_signature",
    "certificate_malformed",
    "certificate_wrong_purpose",
    "certificate_unsupported",
    "certificate_chain_too_large",
];

/// Every word of `reason` for a refusal, with the step it belongs to; docs/refusals.md is compared with it.
pub const REFUSALS: &[(&str, Step)] = &[
    ("full", Step::Accept),
    ("address_full", Step::Accept),
    ("address_rate", Step::Accept),
    ("proxy_header_missing", Step::Handshake),
    ("proxy_header_malformed", Step::Handshake),
    ("proxy_header_timeout", Step::Handshake),
    ("not_tls", Step::Handshake),
    ("handshake_timeout", Step::Handshake),
    ("handshakes_full", Step::Handshake),
    ("storm", Step::Handshake),
    ("device_gone", Step::Handshake),
    ("no_certificate", Step::Handshake),
    ("certificate_expired", Step::Handshake),
    ("certificate_not_yet_valid", Step::Handshake),
    ("certificate_unknown_issuer", Step::Handshake),
    ("certificate_revoked", Step::Handshake),
    ("crl_stale", Step::Handshake),
    ("crl_missing", Step::Handshake),
    ("certificate_bad_signature", Step::Handshake),
    ("certificate_malformed", Step::Handshake),
    ("certificate_wrong_purpose", Step::Handshake),
    ("certificate_unsupported", Step::Handshake),
    ("certificate_chain_too_large", Step::Handshake),
    ("server_refused", Step::Handshake),
    ("nothing_in_common", Step::Handshake),
    ("tls_fault", Step::Handshake),
    ("connect_timeout", Step::Connect),
    ("not_connect", Step::Connect),
    ("connect_malformed", Step::Connect),
    ("connect_against_protocol", Step::Connect),
    ("connect_too_large", Step::Connect),
    ("unsupported_level", Step::Connect),
    ("client_id_empty", Step::Connect),
    ("enhanced_authentication", Step::Verdict),
    ("identity_missing", Step::Verdict),
    ("identity_repeated", Step::Verdict),
    ("identity_unreadable", Step::Verdict),
    ("identity_not_matched", Step::Verdict),
    ("identity_not_allowed", Step::Verdict),
    ("no_token", Step::Verdict),
    ("token_bad", Step::Verdict),
    ("token_expired", Step::Verdict),
    ("token_keys_away", Step::Verdict),
    ("credentials_disagree", Step::Verdict),
    ("device_unknown", Step::Verdict),
    ("device_disabled", Step::Verdict),
    ("mode_not_allowed", Step::Verdict),
    ("certificate_not_registered", Step::Verdict),
    ("credential_expired", Step::Verdict),
    ("registry_away", Step::Verdict),
    ("registration_full", Step::Verdict),
    ("revoked_meanwhile", Step::Verdict),
    ("client_id_not_own", Step::Verdict),
    ("client_id_not_allowed", Step::Verdict),
    ("username_not_allowed", Step::Verdict),
    ("text_too_long", Step::Verdict),
    ("rewrite_too_long", Step::Verdict),
    ("draining", Step::Verdict),
    ("broker_away", Step::Broker),
    ("broker_silent", Step::Broker),
    ("broker_closed", Step::Broker),
    ("broker_garbage", Step::Broker),
    ("out_of_descriptors", Step::Broker),
    ("out_of_ports", Step::Broker),
    ("gate_fault", Step::Broker),
];

/// A time as people tell it: `82 µs`, `12 ms`, `3.0 s`.
fn rough(time: Duration) -> String {
    match time.as_micros() {
        few @ 0..1000 => format!("{few} µs"),
        some @ 1000..1_000_000 => format!("{} ms", some / 1000),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

/// What a pin is the right answer to.
const PINNABLE: [&str; 3] = [
    "certificate_unknown_issuer",
    "certificate_wrong_purpose",
    "certificate_unsupported",
];

impl Refusal {
    /// The same, with the way in that a registry offers for a certificate of a kind that no trust group takes; not for one that
    /// was revoked, or has ended.
    #[must_use]
    pub fn where_pins_count(self, they_do: bool) -> Self {
        match self {
            Self::Certificate { label, why } if they_do && PINNABLE.contains(&label) => {
                Self::Certificate {
                    label,
                    why: format!("{why}; or pin it: tidegate device add ID --pin FILE"),
                }
            }
            other => other,
        }
    }

    /// For the dashboard: one of [`REFUSALS`], never text from the wire.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Full { .. } => "full",
            Self::AddressFull { .. } => "address_full",
            Self::AddressRate { .. } => "address_rate",
            Self::ProxyHeader(proxy_protocol::Malformed::Missing) => "proxy_header_missing",
            Self::ProxyHeader(_) => "proxy_header_malformed",
            Self::ProxyHeaderTimeout { .. } => "proxy_header_timeout",
            Self::NotTls { .. } => "not_tls",
            Self::HandshakeTimeout { .. } => "handshake_timeout",
            Self::HandshakesFull { .. } => "handshakes_full",
            Self::Storm => "storm",
            Self::DeviceGone { .. } => "device_gone",
            Self::NoCertificate => "no_certificate",
            Self::Certificate { label, .. } => label,
            Self::ServerRefused { .. } => "server_refused",
            Self::NothingInCommon { .. } => "nothing_in_common",
            Self::TlsFault { .. } => "tls_fault",
            Self::ConnectTimeout { .. } => "connect_timeout",
            Self::Connect(fault) => match fault.malformed.kind() {
                Kind::NotConnect => "not_connect",
                Kind::Malformed => "connect_malformed",
                Kind::Protocol => "connect_against_protocol",
                Kind::UnsupportedLevel => "unsupported_level",
                Kind::TooLarge => "connect_too_large",
                Kind::EmptyClientId => "client_id_empty",
            },
            Self::EnhancedAuthentication => "enhanced_authentication",
            Self::Unnamed(unnamed) => unnamed.label(),
            Self::NoToken { .. } => "no_token",
            Self::TokenBad { .. } => "token_bad",
            Self::TokenExpired { .. } => "token_expired",
            Self::Jwt(bad) => bad.label(),
            Self::CredentialsDisagree { .. } => "credentials_disagree",
            Self::DeviceUnknown { .. } => "device_unknown",
            Self::DeviceDisabled { .. } => "device_disabled",
            Self::ModeNotAllowed { .. } => "mode_not_allowed",
            Self::CertificateNotRegistered { .. } => "certificate_not_registered",
            Self::CredentialExpired { .. } => "credential_expired",
            Self::RegistryAway { .. } => "registry_away",
            Self::RegistrationFull { .. } => "registration_full",
            Self::Revoked(_) => "revoked_meanwhile",
            Self::ClientIdNotOwn { .. } => "client_id_not_own",
            Self::Unrenderable(unrenderable) => unrenderable.label(),
            Self::RewriteTooLong(_) => "rewrite_too_long",
            Self::BrokerAway { .. } => "broker_away",
            Self::BrokerSilent { .. } => "broker_silent",
            Self::BrokerClosed { .. } => "broker_closed",
            Self::BrokerGarbage(_) => "broker_garbage",
            Self::Draining => "draining",
            Self::OutOfDescriptors => "out_of_descriptors",
            Self::OutOfPorts { .. } => "out_of_ports",
            Self::GateFault => "gate_fault",
        }
    }

    /// For the device: the CONNACK to send, as its version and code (MQTT 3.1.1 §3.2.2.3, MQTT 5.0 §3.2.2.2).
    ///
    /// `version` is that of its CONNECT, if one was understood. `None`: close without a word.
    pub fn answer(&self, version: Option<Version>) -> Option<(Version, u8)> {
        let (v3, v5) = match self {
            Self::Connect(fault) => return fault.answer(),
            Self::Full { .. }
            | Self::AddressFull { .. }
            | Self::AddressRate { .. }
            | Self::ProxyHeader(_)
            | Self::ProxyHeaderTimeout { .. }
            | Self::NotTls { .. }
            | Self::HandshakeTimeout { .. }
            | Self::HandshakesFull { .. }
            | Self::Storm
            | Self::DeviceGone { .. }
            | Self::NoCertificate
            | Self::ServerRefused { .. }
            | Self::NothingInCommon { .. }
            | Self::TlsFault { .. }
            | Self::ConnectTimeout { .. } => return None,
            Self::EnhancedAuthentication => (0x05, 0x8c),
            // A certificate that was looked at again after the handshake: a pin may have made up for it, and did not.
            Self::Certificate { .. }
            | Self::Unnamed(_)
            | Self::NoToken { .. }
            | Self::DeviceUnknown {
                by_token: false, ..
            }
            | Self::DeviceDisabled { .. }
            | Self::ModeNotAllowed { .. }
            | Self::CertificateNotRegistered { .. }
            | Self::CredentialExpired { .. }
            | Self::Revoked(_) => (0x05, 0x87),
            // One answer for a bad token and for a device that is not there: a stranger learns no names.
            Self::DeviceUnknown { by_token: true, .. }
            | Self::TokenBad { .. }
            | Self::TokenExpired { .. }
            | Self::CredentialsDisagree { .. } => (0x04, 0x86),
            Self::Jwt(bad) if bad.label() != "token_keys_away" => (0x04, 0x86),
            Self::ClientIdNotOwn { .. } => (0x02, 0x85),
            Self::Unrenderable(unrenderable) => match unrenderable.label() {
                "client_id_not_allowed" => (0x02, 0x85),
                _ => (0x05, 0x87),
            },
            Self::RewriteTooLong(_) => (0x05, 0x95),
            Self::OutOfDescriptors | Self::RegistrationFull { .. } => (0x03, 0x89),
            Self::BrokerAway { .. }
            | Self::BrokerSilent { .. }
            | Self::BrokerClosed { .. }
            | Self::BrokerGarbage(_)
            | Self::Jwt(_)
            | Self::RegistryAway { .. }
            | Self::Draining
            | Self::OutOfPorts { .. }
            | Self::GateFault => (0x03, 0x88),
        };
        version.map(|version| (version, if version == Version::V5 { v5 } else { v3 }))
    }
}

/// How a connection ended that was linked to a broker.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Ending {
    /// The broker refused the CONNECT, and the device was told so in the broker's own words.
    #[error("the broker refused the CONNECT with code {code:#04x}")]
    BrokerRefused {
        /// The broker's CONNACK code.
        code: u8,
    },
    /// The device closed first.
    #[error("the device closed the connection")]
    DeviceClosed,
    /// The device was lost.
    #[error("the device was lost: {what}")]
    DeviceLost {
        /// What the socket or TLS said.
        what: String,
    },
    /// The broker closed first.
    #[error("the broker closed the connection")]
    BrokerClosed,
    /// The broker was lost.
    #[error("the broker was lost: {what}")]
    BrokerLost {
        /// What the socket said.
        what: String,
    },
    /// The device sent CONNECT again.
    #[error("the device sent a second CONNECT [MQTT-3.1.0-2]")]
    SecondConnect,
    /// The device sent a packet that it may not send.
    #[error("the device sent a packet of type {packet}, which a device may not send here")]
    ForbiddenPacket {
        /// The packet type, 0 to 15.
        packet: u8,
    },
    /// The device sent a length that is none.
    #[error("the device sent a Remaining Length of more than four bytes (MQTT 5.0 §1.5.5)")]
    MalformedPacket,
    /// The broker sent what no broker may send.
    #[error("the broker sent what a broker may not send: {what}")]
    BrokerGarbage {
        /// What it was.
        what: String,
    },
    /// One side had closed, and the other was silent for too long.
    #[error("one side had closed, and nothing came from the other for {limit:?}")]
    HalfOpen {
        /// The limit.
        limit: Duration,
    },
    /// What let it in counts no longer, or something else took its place.
    #[error("{0}")]
    Revoked(Cause),
    /// The gate drained.
    #[error("the gate drained")]
    Drained,
    /// The gate ended it at once.
    #[error("the gate ended it at once at the end of the drain")]
    Cut,
    /// A fault of ours.
    #[error("a fault in the gate ended this connection; please report it")]
    GateFault,
}

/// Why the gate ended a connection that it had admitted: the label of `revoked_connections_total`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[repr(u8)]
pub enum Cause {
    /// Its owner disabled it.
    #[error("the device was disabled")]
    DeviceDisabled = 1,
    /// Its owner removed it.
    #[error("the device was removed from the registry")]
    DeviceRemoved = 2,
    /// Its owner raised `min_mode`, or its listener has its mode no more.
    #[error("the device may not use this mode any more")]
    ModeTightened = 3,
    /// Its owner ended the credential.
    #[error("the credential that the device showed was ended or removed")]
    CredentialEnded = 4,
    /// The certificate's, token's or credential's time was over.
    #[error("the certificate, token or credential that the device showed reached its end")]
    Expired = 5,
    /// The trust group is gone, or revoked the certificate, or its issuer's keys are.
    #[error("nobody vouches any more for what the device showed")]
    TrustEnded = 6,
    /// A newer connection of the same device (`connections_per_device`).
    #[error("a newer connection of the same device took its place (connections_per_device)")]
    Replaced = 7,
    /// An operator ended it.
    #[error("an operator ended it")]
    EndedByOperator = 8,
}

impl Cause {
    /// Every cause, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::DeviceDisabled,
        Self::DeviceRemoved,
        Self::ModeTightened,
        Self::CredentialEnded,
        Self::Expired,
        Self::TrustEnded,
        Self::Replaced,
        Self::EndedByOperator,
    ];

    /// For the dashboard, and the word of `reason`.
    pub fn label(self) -> &'static str {
        match self {
            Self::DeviceDisabled => "device_disabled",
            Self::DeviceRemoved => "device_removed",
            Self::ModeTightened => "mode_tightened",
            Self::CredentialEnded => "credential_ended",
            Self::Expired => "expired",
            Self::TrustEnded => "trust_ended",
            Self::Replaced => "replaced",
            Self::EndedByOperator => "ended_by_operator",
        }
    }

    /// Why an open connection ends whose evidence is refused since something changed; `None`: it goes on, since nothing is known against it.
    pub fn of(refusal: &Refusal) -> Option<Self> {
        Some(match refusal {
            Refusal::DeviceDisabled { .. } => Self::DeviceDisabled,
            Refusal::DeviceUnknown { .. } => Self::DeviceRemoved,
            Refusal::ModeNotAllowed { .. } => Self::ModeTightened,
            Refusal::Certificate { .. } => Self::TrustEnded,
            Refusal::RegistryAway { .. } => return None,
            _ => Self::CredentialEnded,
        })
    }

    /// What an MQTT 5 device is told (MQTT 5.0 §3.14.2.1).
    fn last_word(self) -> u8 {
        match self {
            Self::DeviceDisabled | Self::DeviceRemoved | Self::EndedByOperator => 0x98, // Administrative action
            Self::ModeTightened | Self::CredentialEnded | Self::TrustEnded => 0x87, // Not authorized
            Self::Expired => 0xa0,  // Maximum connect time
            Self::Replaced => 0x8e, // Session taken over
        }
    }
}

/// Every word of `reason` for a connection that was linked; docs/refusals.md is compared with it.
pub const ENDINGS: &[&str] = &[
    "broker_refused",
    "device_closed",
    "device_lost",
    "broker_closed",
    "broker_lost",
    "second_connect",
    "forbidden_packet",
    "malformed_packet",
    "broker_garbage",
    "half_open",
    "device_disabled",
    "device_removed",
    "mode_tightened",
    "credential_ended",
    "expired",
    "trust_ended",
    "replaced",
    "ended_by_operator",
    "drained",
    "cut",
    "gate_fault",
];

impl Ending {
    /// One of [`ENDINGS`].
    pub fn label(&self) -> &'static str {
        match self {
            Self::BrokerRefused { .. } => "broker_refused",
            Self::DeviceClosed => "device_closed",
            Self::DeviceLost { .. } => "device_lost",
            Self::BrokerClosed => "broker_closed",
            Self::BrokerLost { .. } => "broker_lost",
            Self::SecondConnect => "second_connect",
            Self::ForbiddenPacket { .. } => "forbidden_packet",
            Self::MalformedPacket => "malformed_packet",
            Self::BrokerGarbage { .. } => "broker_garbage",
            Self::HalfOpen { .. } => "half_open",
            Self::Revoked(cause) => cause.label(),
            Self::Drained => "drained",
            Self::Cut => "cut",
            Self::GateFault => "gate_fault",
        }
    }

    /// What an MQTT 5 device is told in a DISCONNECT of ours (MQTT 5.0 §3.14.2.1); `None`: nothing.
    pub fn last_word(&self) -> Option<u8> {
        match self {
            Self::SecondConnect | Self::ForbiddenPacket { .. } => Some(0x82), // Protocol Error
            Self::MalformedPacket => Some(0x81),                              // Malformed Packet
            Self::Revoked(cause) => Some(cause.last_word()),
            Self::Drained => Some(0x8b), // Server shutting down
            Self::BrokerGarbage { .. } => Some(0x80), // Unspecified error
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> DeviceId {
        "a".parse().expect("a good name")
    }

    fn one_of_each() -> Vec<Refusal> {
        let limit = Duration::from_secs(1);
        vec![
            Refusal::Full { most: 1 },
            Refusal::AddressFull { most: 1 },
            Refusal::AddressRate { most: 1 },
            Refusal::ProxyHeader(proxy_protocol::Malformed::Missing),
            Refusal::ProxyHeader(proxy_protocol::Malformed::TooLong { most: 107 }),
            Refusal::ProxyHeaderTimeout { limit },
            Refusal::NotTls { first: 0x10 },
            Refusal::HandshakeTimeout { limit },
            Refusal::HandshakesFull { limit },
            Refusal::Storm,
            Refusal::DeviceGone {
                during: "during the handshake",
            },
            Refusal::NoCertificate,
            Refusal::ServerRefused {
                alert: String::new(),
            },
            Refusal::NothingInCommon {
                what: String::new(),
            },
            Refusal::TlsFault {
                what: String::new(),
            },
            Refusal::ConnectTimeout { limit, got: 0 },
            Refusal::EnhancedAuthentication,
            Refusal::NoToken {
                mode: Mode::Plain,
                taken: None,
            },
            Refusal::TokenBad { why: String::new() },
            Refusal::TokenExpired { why: String::new() },
            Refusal::CredentialsDisagree {
                certificate: device(),
                token: device(),
            },
            Refusal::DeviceUnknown {
                device: None,
                by_token: true,
            },
            Refusal::DeviceDisabled {
                device: device(),
                waits: false,
            },
            Refusal::ModeNotAllowed {
                device: device(),
                mode: Mode::Plain,
                least: Mode::MutualTls,
            },
            Refusal::CertificateNotRegistered {
                device: device(),
                why: String::new(),
            },
            Refusal::CredentialExpired {
                device: device(),
                number: 1,
                early: false,
            },
            Refusal::RegistryAway { why: String::new() },
            Refusal::RegistrationFull { why: String::new() },
            Refusal::Revoked(Cause::DeviceDisabled),
            Refusal::ClientIdNotOwn {
                device: device(),
                asked: String::new(),
            },
            Refusal::RewriteTooLong(String::new()),
            Refusal::BrokerAway {
                waited: limit,
                last: String::new(),
            },
            Refusal::BrokerSilent { limit },
            Refusal::BrokerClosed {
                what: String::new(),
            },
            Refusal::Draining,
            Refusal::OutOfDescriptors,
            Refusal::OutOfPorts { why: String::new() },
            Refusal::GateFault,
        ]
    }

    /// One that refuses at once took no time, and no time limit was at fault.
    #[test]
    fn a_broker_that_is_away_is_told_with_how_long_it_was_tried() {
        let told = |waited: Duration| {
            let last = "mqtt://b:1883: Connection refused (os error 111)".to_owned();
            Refusal::BrokerAway { waited, last }.to_string()
        };
        assert_eq!(
            told(Duration::from_nanos(82_417)),
            "no broker took the connection (tried for 82 µs): mqtt://b:1883: Connection refused (os error 111)"
        );
        assert!(told(Duration::from_micros(12_900)).contains("(tried for 12 ms)"));
        assert!(told(Duration::from_millis(3002)).contains("(tried for 3.0 s)"));
    }

    #[test]
    fn every_word_is_in_the_table_once() {
        for refusal in one_of_each() {
            let label = refusal.label();
            assert_eq!(
                REFUSALS.iter().filter(|(word, _)| *word == label).count(),
                1,
                "{label}"
            );
        }
        for word in CERTIFICATE_REASONS {
            assert!(REFUSALS.iter().any(|(known, _)| *known == word), "{word}");
        }
    }

    /// T3, threats.md §5: the codes that a device may take as final are for policy alone.
    #[test]
    fn our_own_trouble_never_reads_as_a_refusal_of_the_device() {
        let ours = [
            "broker_away",
            "broker_silent",
            "broker_closed",
            "broker_garbage",
            "draining",
            "out_of_descriptors",
            "out_of_ports",
            "gate_fault",
            "registry_away",
            "registration_full",
        ];
        for refusal in one_of_each() {
            let Some((_, v3)) = refusal.answer(Some(Version::V311)) else {
                continue;
            };
            let (_, v5) = refusal
                .answer(Some(Version::V5))
                .expect("an answer for one version is one for all");
            if ours.contains(&refusal.label()) {
                assert_eq!(v3, 0x03, "{refusal}");
                assert!(matches!(v5, 0x88 | 0x89), "{refusal}");
            } else {
                assert_ne!(v3, 0x03, "{refusal}");
            }
        }
    }

    #[test]
    fn without_a_version_no_connack_can_be_written() {
        for refusal in one_of_each() {
            assert_eq!(refusal.answer(None), None, "{refusal}");
        }
    }
}
