//! Why an attempt failed: one word of a closed set, and what was said.

use std::io;

use rustls::AlertDescription as Alert;

/// Why an attempt failed.
#[derive(Debug)]
pub(super) struct Trouble {
    /// The word that it is counted under.
    pub(super) word: &'static str,
    /// What the system or the server said, to show one example; may be empty.
    pub(super) said: String,
}

impl Trouble {
    /// Of that word, with nothing to add.
    pub(super) fn of(word: &'static str) -> Self {
        Self {
            word,
            said: String::new(),
        }
    }

    /// Of that word, as said.
    pub(super) fn said(word: &'static str, said: &dyn std::fmt::Display) -> Self {
        Self {
            word,
            said: said.to_string(),
        }
    }

    /// The connection ended without a word of TLS.
    pub(super) fn closed() -> Self {
        Self::of("closed")
    }
}

/// The client ran out of descriptors.
pub(super) const DESCRIPTORS: &str = "client_descriptors";
/// The client ran out of ports.
pub(super) const PORTS: &str = "client_ports";

impl From<io::Error> for Trouble {
    fn from(fault: io::Error) -> Self {
        use io::ErrorKind::{
            AddrInUse, AddrNotAvailable, BrokenPipe, ConnectionAborted, ConnectionRefused,
            ConnectionReset, NotConnected, TimedOut,
        };
        let errno = |code: rustix::io::Errno| fault.raw_os_error() == Some(code.raw_os_error());
        let word = match fault.kind() {
            ConnectionRefused => "refused",
            ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected => "reset",
            AddrNotAvailable | AddrInUse => PORTS,
            TimedOut => "timeout",
            _ if errno(rustix::io::Errno::MFILE) || errno(rustix::io::Errno::NFILE) => DESCRIPTORS,
            _ => "other",
        };
        Self::said(word, &fault)
    }
}

impl From<rustls::Error> for Trouble {
    fn from(fault: rustls::Error) -> Self {
        let word = match &fault {
            rustls::Error::AlertReceived(alert) => alert_word(*alert),
            _ => "tls_failed",
        };
        Self::said(word, &fault)
    }
}

/// RFC 8446 §6.2. Those that speak of the device's certificate are one word: it was refused.
fn alert_word(alert: Alert) -> &'static str {
    match alert {
        Alert::NoCertificate
        | Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied
        | Alert::CertificateRequired => "certificate_refused",
        Alert::UnexpectedMessage => "tls_alert_unexpected_message",
        Alert::BadRecordMac => "tls_alert_bad_record_mac",
        Alert::HandshakeFailure => "tls_alert_handshake_failure",
        Alert::IllegalParameter => "tls_alert_illegal_parameter",
        Alert::DecodeError => "tls_alert_decode_error",
        Alert::DecryptError => "tls_alert_decrypt_error",
        Alert::ProtocolVersion => "tls_alert_protocol_version",
        Alert::InsufficientSecurity => "tls_alert_insufficient_security",
        Alert::InternalError => "tls_alert_internal_error",
        Alert::UserCanceled => "tls_alert_user_canceled",
        Alert::UnrecognisedName => "tls_alert_unrecognized_name",
        Alert::NoApplicationProtocol => "tls_alert_no_application_protocol",
        _ => "tls_alert",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_has_a_word() {
        for (errno, word) in [
            (rustix::io::Errno::CONNREFUSED, "refused"),
            (rustix::io::Errno::CONNRESET, "reset"),
            (rustix::io::Errno::PIPE, "reset"),
            (rustix::io::Errno::ADDRNOTAVAIL, PORTS),
            (rustix::io::Errno::MFILE, DESCRIPTORS),
            (rustix::io::Errno::TIMEDOUT, "timeout"),
            (rustix::io::Errno::NOMEM, "other"),
        ] {
            let fault = io::Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(Trouble::from(fault).word, word, "{errno:?}");
        }
    }

    #[test]
    fn an_alert_about_the_certificate_is_a_refusal() {
        let word = |alert| Trouble::from(rustls::Error::AlertReceived(alert)).word;
        assert_eq!(word(Alert::UnknownCA), "certificate_refused");
        assert_eq!(word(Alert::CertificateRequired), "certificate_refused");
        assert_eq!(word(Alert::HandshakeFailure), "tls_alert_handshake_failure");
        assert_eq!(word(Alert::Unknown(200)), "tls_alert");
    }
}
