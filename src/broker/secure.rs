//! Why TLS towards a broker fails, in words for the one who mends it.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};
use rustls_pki_types::UnixTime;

use crate::tls::stream::Lost;
use crate::tls::trust::date;

use super::endpoint::Unreached;

/// How many names of a certificate are told.
const NAMES: usize = 5;

/// What a handshake that failed says of the broker.
pub(super) fn failed(lost: Lost) -> Unreached {
    match lost {
        Lost::Tls(fault) => Unreached::Tls(why(&fault)),
        Lost::Io(fault) => match fault.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Unreached::Tls(
                "it closed the connection in the handshake; see that this port speaks TLS, and what the broker logs".into(),
            ),
            _ => Unreached::Io(fault),
        },
    }
}

/// What went wrong, and the way out where there is one.
pub(super) fn why(fault: &Error) -> String {
    match fault {
        Error::InvalidCertificate(fault) => certificate(fault),
        Error::AlertReceived(alert) => refused(*alert),
        Error::InvalidMessage(what) => {
            format!("what it says is no TLS ({what:?}); see that this port speaks TLS")
        }
        Error::PeerIncompatible(what) => {
            format!(
                "it has nothing in common with the gate, which speaks TLS 1.2 and 1.3 ({what:?})"
            )
        }
        Error::General(what) => what.clone(),
        fault => fault.to_string(),
    }
}

/// The same behind the handshake. A broker that asks for another one is told that there is none, and gives up by the alert
/// (RFC 5746 §4.5; rustls does not renegotiate).
pub(super) fn why_later(fault: &Error) -> String {
    match fault {
        Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            "it asks for a client certificate (broker.tls.certificate), or to renegotiate in TLS 1.2, which the gate does not; see \
             what the broker logs"
                .into()
        }
        fault => why(fault),
    }
}

/// What is wrong with the broker's certificate.
fn certificate(fault: &CertificateError) -> String {
    use CertificateError as C;
    match fault {
        C::UnknownIssuer => "its certificate is of no CA in broker.tls.ca".into(),
        C::BadSignature => {
            "a CA in broker.tls.ca has the name of the one that issued its certificate, but another key; name the CA as it is now".into()
        }
        C::ExpiredContext { not_after, .. } => {
            format!("its certificate ended on {}", day(*not_after))
        }
        C::NotValidYetContext { not_before, .. } => format!(
            "its certificate begins on {} only; see to this host's clock",
            day(*not_before)
        ),
        C::NotValidForNameContext {
            expected,
            presented,
        } => {
            // As rustls tells them: DnsName("a.example.net"), IpAddress(192.0.2.1).
            let name = |told: &String| {
                let inner = told.split_once('(').map_or(told.as_str(), |(_, rest)| rest);
                inner.trim_end_matches(')').trim_matches('"').to_owned()
            };
            let names: Vec<_> = presented.iter().take(NAMES).map(name).collect();
            let names = match names.as_slice() {
                [] => "no name at all".to_owned(),
                names => names.join(", "),
            };
            format!(
                "its certificate is not for {}, but for {names}; write the name that it is for as broker.tls.server_name",
                expected.to_str()
            )
        }
        C::InvalidPurposeContext { .. } | C::InvalidPurpose => {
            "its certificate is not one for servers (extended key usage)".into()
        }
        // rustls has no variant of its own for it.
        C::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "it shows the certificate of a CA as its own, as openssl req -x509 makes one; give the broker one that a CA issued"
                .into()
        }
        fault => format!("its certificate is not good: {fault}"),
    }
}

fn day(at: UnixTime) -> String {
    date(i64::try_from(at.as_secs()).unwrap_or(i64::MAX))
}

/// Why the broker ended TLS.
fn refused(alert: AlertDescription) -> String {
    use AlertDescription as A;
    match alert {
        A::CertificateRequired => {
            "it asks for a client certificate; write broker.tls.certificate and broker.tls.key".into()
        }
        A::UnknownCA => {
            "it does not know the CA of the gate's certificate (broker.tls.certificate)".into()
        }
        A::CertificateExpired => "it says that the gate's certificate has ended".into(),
        A::CertificateRevoked => "it says that the gate's certificate is revoked".into(),
        A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateUnknown
        | A::AccessDenied
        | A::DecryptError => format!("it does not take the gate's certificate ({alert:?})"),
        A::HandshakeFailure => {
            "it found nothing in common, or asks for a client certificate (broker.tls.certificate); see what the broker logs".into()
        }
        A::ProtocolVersion => "it speaks neither TLS 1.2 nor 1.3".into(),
        A::UnrecognisedName => "it has no certificate for that name (broker.tls.server_name)".into(),
        alert => format!("it ended TLS with the alert {alert:?}"),
    }
}
