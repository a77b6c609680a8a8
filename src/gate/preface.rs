//! What a broker is told of a connection before its CONNECT: the PROXY header.

use crate::proxy_protocol::{Certificate, Tls, Told, Version};
use crate::rules::reason::Refusal;
use crate::tls::suites::openssl_name;

use super::connection::Facts;
use super::handshake::Secured;
use super::wire::DeviceLink;

/// The header for the connection of `secured`; empty, and without an allocation, if brokers are told none.
///
/// It is made of what the gate knows for itself: the broker believes it.
///
/// # Errors
/// [`Refusal::GateFault`], if it is not known where the device called: a broker that is told no address must not take the
/// gate's for it.
pub(crate) fn preface(
    secured: &Secured,
    facts: &mut Facts,
    version: Option<Version>,
) -> Result<Vec<u8>, Refusal> {
    let Some(version) = version else {
        return Ok(Vec::new());
    };
    let to = secured.to.ok_or(Refusal::GateFault)?;
    let ends = Told::ends(secured.address, to);
    if version == Version::V1 {
        return Ok(ends.header(version));
    }
    let id = format!("{:032x}", fastrand::u128(..));
    let told = Told {
        tls: tls(secured, facts),
        alpn: facts.alpn.as_deref(),
        authority: facts.sni.as_deref(),
        unique_id: Some(&id),
        ..ends
    };
    let header = told.header(version);
    facts.unique_id = Some(id.into());
    Ok(header)
}

fn tls<'a>(secured: &'a Secured, facts: &'a Facts) -> Option<Tls<'a>> {
    let DeviceLink::Tls(_) = secured.link else {
        return None;
    };
    let certificate = secured.shown.as_ref().map(|shown| Certificate {
        shown_now: facts.resumed != Some(true),
        // Of a certificate that is only pinned nobody says that the name in it is its own: brokers may take it for the device's.
        common_name: shown
            .vouched()
            .and_then(|vouched| vouched.certificate.cn().ok()),
    });
    let presented = secured.presented;
    Some(Tls {
        version: facts.tls_version.map(|version| match version {
            "1.2" => "TLSv1.2",
            _ => "TLSv1.3",
        }),
        cipher: facts.cipher.and_then(openssl_name),
        signature: presented
            .map(|one| one.signature)
            .filter(|name| !name.is_empty()),
        key: presented.map(|one| one.key).filter(|name| !name.is_empty()),
        certificate,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::broker::socket::Socket;
    use crate::gate::listener::Listener;
    use crate::rules::device::Mode;

    /// A device on a plain listener, of which it is not known where it called.
    async fn secured() -> Secured {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("bound");
        let socket = TcpStream::connect(at).await.expect("it listens");
        Secured {
            link: DeviceLink::Plain(Socket::Tcp(socket)),
            mode: Mode::Plain,
            shown: None,
            address: at,
            to: None,
            presented: None,
            listener: Arc::new(Listener::new(0, "devices".into())),
            by: None,
        }
    }

    #[tokio::test]
    async fn no_broker_that_must_get_a_header_is_called_without_one() {
        let mut facts = Facts::default();
        let mut device = secured().await;
        for version in [Version::V1, Version::V2] {
            let refused = preface(&device, &mut facts, Some(version));
            assert_eq!(refused, Err(Refusal::GateFault));
        }
        assert_eq!(preface(&device, &mut facts, None), Ok(Vec::new()));
        device.to = Some(device.address);
        let header = preface(&device, &mut facts, Some(Version::V1)).expect("all is known");
        assert!(header.starts_with(b"PROXY TCP4 127.0.0.1 127.0.0.1 "));
    }
}
