use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rustls_pki_types::{ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};
use x509_parser::revocation_list::CertificateRevocationList;

use super::*;

fn parsed(issued: &Issued) -> X509Certificate<'_> {
    X509Certificate::from_der(issued.certificate()).unwrap().1
}

/// What webpki says of the chain, as a gate or a device would ask it, `at` unix seconds.
fn verified(
    issued: &Issued,
    root: &Authority,
    usage: KeyUsage,
    at: i64,
) -> Result<(), webpki::Error> {
    let chain = issued.chain();
    let anchors = [anchor_from_trusted_cert(root.certificate())?];
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at.unsigned_abs()));
    EndEntityCert::try_from(&chain[0])?
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &chain[1..],
            at,
            usage,
            None,
            None,
        )
        .map(drop)
}

fn meter() -> DeviceId {
    "meter-7".parse().unwrap()
}

#[test]
fn a_device_is_named_twice_and_may_only_be_a_client() {
    let ca = Authority::new("trial").unwrap();
    let issued = ca.device(&meter()).unwrap();

    let certificate = parsed(&issued);
    let names: Vec<_> = certificate.subject().iter_common_name().collect();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0].as_str(), Ok("meter-7"));
    let san = certificate.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        san.value.general_names,
        [GeneralName::URI("urn:device:meter-7")]
    );
    let now = order::now();
    verified(&issued, &ca, KeyUsage::client_auth(), now).unwrap();
    verified(&issued, &ca, KeyUsage::server_auth(), now).unwrap_err();
}

#[test]
fn a_server_holds_its_names_and_may_only_be_a_server() {
    let ca = Authority::new("trial").unwrap();
    let issued = ca
        .server(&["gate.example.net", "*.example.org", "127.0.0.1", "::1"])
        .unwrap();

    let now = order::now();
    verified(&issued, &ca, KeyUsage::server_auth(), now).unwrap();
    verified(&issued, &ca, KeyUsage::client_auth(), now).unwrap_err();
    let leaf = EndEntityCert::try_from(issued.certificate()).unwrap();
    for name in ["gate.example.net", "a.example.org", "127.0.0.1", "::1"] {
        leaf.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap())
            .unwrap();
    }
    for bad in ["", "a b", "ex_ample/", "*", "127.0.0.1/8", "mqtt://gate"] {
        let fault = ca.server(&[bad]).err().unwrap();
        assert!(
            matches!(fault, Fault::NotAServerName(_)),
            "{bad:?}: {fault}"
        );
    }
    assert!(ca.server::<&str>(&[]).is_err());
}

#[test]
fn every_certificate_keeps_rfc_5280() {
    let ca = Authority::new("trial").unwrap();
    let issued = ca.device(&meter()).unwrap();
    let (_, root) = X509Certificate::from_der(ca.certificate()).unwrap();
    let leaf = parsed(&issued);

    for certificate in [&root, &leaf] {
        assert_eq!(certificate.version(), X509Version::V3);
        let serial = certificate.raw_serial();
        assert!(
            serial.len() == 16 && serial[0] & 0xc0 == 0x40,
            "{serial:x?}"
        );
        assert!(certificate.validity().not_before.timestamp() <= order::now() - 3600);
        certificate
            .verify_signature(Some(root.public_key()))
            .unwrap();
    }
    assert_ne!(root.raw_serial(), leaf.raw_serial());
    assert_eq!(leaf.raw_serial(), issued.serial());
    assert!(root.is_ca() && !leaf.is_ca());
    let usage = root.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
    assert!(!usage.value.digital_signature());
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign());
    assert_eq!(authority_key_id(&leaf), subject_key_id(&root));
    assert!(subject_key_id(&leaf).is_some());
}

fn subject_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate
        .iter_extensions()
        .find_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        })
}

fn authority_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate
        .iter_extensions()
        .find_map(|e| match e.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                Some(id.key_identifier.clone()?.0.to_vec())
            }
            _ => None,
        })
}

#[test]
fn an_intermediates_chain_leads_to_the_root() {
    let root = Authority::new("root").unwrap();
    let middle = root.intermediate(Order::ca("middle")).unwrap();
    let issuing = middle.intermediate(Order::ca("issuing")).unwrap();
    let issued = issuing.device(&meter()).unwrap();

    assert_eq!(issued.chain().len(), 3);
    assert_eq!(issued.chain_pem().matches("BEGIN CERTIFICATE").count(), 3);
    verified(&issued, &root, KeyUsage::client_auth(), order::now()).unwrap();
}

#[test]
fn every_kind_of_key_signs_and_is_signed() {
    let kinds = [
        KeyKind::EcdsaP256,
        KeyKind::EcdsaP384,
        KeyKind::EcdsaP521,
        KeyKind::Ed25519,
        KeyKind::Rsa2048,
    ];
    for kind in kinds {
        let ca = Authority::root(Order::ca("trial").key(kind)).unwrap();
        let issued = ca.issue(Order::device(&meter()).key(kind)).unwrap();
        verified(&issued, &ca, KeyUsage::client_auth(), order::now()).unwrap();
        rustls::crypto::aws_lc_rs::sign::any_supported_type(&issued.key()).unwrap();
    }
}

#[test]
fn a_test_can_order_what_a_gate_must_refuse() {
    let ca = Authority::new("trial").unwrap();
    let order = Order::device_named("a/#\0")
        .common_name("b")
        .organizational_unit("meters")
        .serial_number("SN 1")
        .email("a@example.net")
        .dns("a.example.net")
        .uri("urn:device:a\0b")
        .serial(&[7])
        .valid(Validity {
            not_before: 1_000_000_000,
            not_after: 1_000_000_001,
        });
    let issued = ca.issue(order).unwrap();

    let certificate = parsed(&issued);
    let names: Vec<_> = certificate
        .subject()
        .iter_common_name()
        .map(|name| name.as_str().unwrap())
        .collect();
    assert_eq!(names, ["a/#\0", "b"]);
    assert_eq!(certificate.raw_serial(), [7]);
    assert_eq!(certificate.validity().not_after.timestamp(), 1_000_000_001);
    let usage = KeyUsage::client_auth;
    verified(&issued, &ca, usage(), 1_000_000_001).unwrap();
    verified(&issued, &ca, usage(), 1_000_000_002).unwrap_err();

    let thrice = Order::device_named("a").common_name("b").common_name("c");
    assert!(ca.issue(thrice).is_err());
}

#[test]
fn a_list_names_the_revoked_and_when_the_next_one_comes() {
    let ca = Authority::new("trial").unwrap();
    let issued = ca.device(&meter()).unwrap();
    let list = ca
        .crl(&[issued.serial()], 1_000_000_000, 1_000_086_400)
        .unwrap();

    let (_, read) = CertificateRevocationList::from_der(list.der()).unwrap();
    let (_, root) = X509Certificate::from_der(ca.certificate()).unwrap();
    read.verify_signature(root.public_key()).unwrap();
    let serials: Vec<_> = read.iter_revoked_certificates().collect();
    assert_eq!(serials.len(), 1);
    assert_eq!(serials[0].raw_serial(), issued.serial());
    assert_eq!(read.next_update().unwrap().timestamp(), 1_000_086_400);
    assert!(
        ca.crl(&[[1]], 5, 5).is_err(),
        "a list that ends at its start"
    );
}

#[test]
fn a_folder_gives_back_the_ca_that_was_put_in() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("a/ca");
    let ca = Authority::new("trial").unwrap();
    let [_, key, list] = folder::save_authority(&folder, &ca).unwrap();

    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&key), 0o600);
    assert_eq!(
        fs::read_dir(&folder).unwrap().count(),
        3,
        "no draft is left behind"
    );
    let again = folder::open_authority(&folder).unwrap();
    assert_eq!(again.certificate(), ca.certificate());
    assert_eq!(again.validity().not_after, ca.validity().not_after);
    let issued = again.device(&meter()).unwrap();
    verified(&issued, &ca, KeyUsage::client_auth(), order::now()).unwrap();
    let text = fs::read(list).unwrap();
    let (_, section) = x509_parser::pem::parse_x509_pem(&text).unwrap();
    let (_, read) = CertificateRevocationList::from_der(&section.contents).unwrap();
    assert_eq!(read.iter_revoked_certificates().count(), 0);
    assert_eq!(
        read.next_update().unwrap().timestamp(),
        ca.validity().not_after
    );

    let [_, key] = folder::save_issued(&folder, "meter-7", &issued).unwrap();
    assert_eq!(mode(&key), 0o600);
}

#[test]
fn nothing_that_exists_is_overwritten_and_no_half_pair_is_left() {
    let home = tempfile::tempdir().unwrap();
    let ca = Authority::new("trial").unwrap();
    fs::write(home.path().join("ca.crl"), "mine").unwrap();

    let fault = folder::save_authority(home.path(), &ca).unwrap_err();

    assert!(matches!(&fault, Fault::Exists(path) if path.ends_with("ca.crl")));
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    assert_eq!(
        fs::read_to_string(home.path().join("ca.crl")).unwrap(),
        "mine"
    );
}

#[test]
fn a_ca_that_cannot_sign_is_told_apart() {
    let home = tempfile::tempdir().unwrap();
    let ca = Authority::new("trial").unwrap();
    let why = |certificate: &str, key: &str| {
        fs::write(home.path().join("ca.pem"), certificate).unwrap();
        fs::write(home.path().join("ca.key"), key).unwrap();
        folder::open_authority(home.path())
            .err()
            .unwrap()
            .to_string()
    };

    assert!(why("", &ca.key_pem()).contains("one PEM certificate"));
    let other = Authority::new("other").unwrap().key_pem();
    assert!(why(ca.certificate_pem(), &other).contains("not the key of"));
    assert!(why(ca.certificate_pem(), "").contains("one private key"));
    let device = ca.device(&meter()).unwrap();
    assert!(why(device.certificate_pem(), &device.key_pem()).contains("not a CA's"));
    let ended = Validity {
        not_before: 0,
        not_after: 1_000_000_000,
    };
    let ended = Authority::root(Order::ca("old").valid(ended)).unwrap();
    assert!(why(ended.certificate_pem(), &ended.key_pem()).contains("ended on 2001-09-09"));
    let away = folder::open_authority(&home.path().join("away"))
        .err()
        .unwrap();
    assert!(away.to_string().contains("tidegate ca init"));
}
