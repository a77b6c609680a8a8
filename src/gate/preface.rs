//! What a broker is told of a connection before its CONNECT: the PROXY header.

use crate::proxy_protocol::{Certificate, Tls, Told, Version};
use crate::tls::suites::openssl_name;

use super::connection::Facts;
use super::handshake::Secured;
use super::wire::DeviceLink;

/// The header for the connection of `secured`; empty, and without an allocation, if brokers are told none.
///
/// It is made of what the gate knows for itself: the broker believes it.
pub(crate) fn preface(secured: &Secured, facts: &mut Facts, version: Option<Version>) -> Vec<u8> {
    let (Some(version), Some(to)) = (version, secured.to) else {
        return Vec::new();
    };
    let ends = Told::ends(secured.address, to);
    if version == Version::V1 {
        return ends.header(version);
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
    header
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
