#![allow(clippy::unwrap_used)] // a test that panics has failed

use super::*;
use crate::tls::testing::*;

#[track_caller]
fn assert_fault<T: std::fmt::Debug>(read: Result<T, FileFault>, words: &[&str]) {
    let sentence = read.expect_err("a fault").to_string();
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in: {sentence}");
    }
    assert!(sentence.contains("; "), "no way out: {sentence}");
}

#[test]
fn certificates_are_read_in_order_with_words_before_them() {
    let folder = Folder::new();
    let (a, b) = (root("a"), root("b"));
    let text = format!(
        "# ours\n\nCertificate:\n  Data: 1\n{}\nsubject=b\n{}\n\n",
        a.pem, b.pem
    );
    for text in [text.clone(), text.replace('\n', "\r\n")] {
        let read = certificates(&folder.file("ca.pem", text)).unwrap();
        assert_eq!(read, [a.der.clone(), b.der.clone()]);
    }
}

#[test]
fn nothing_is_skipped() {
    let folder = Folder::new();
    let made = root("a");
    let pem = made.pem.trim();
    let body: Vec<&str> = pem.lines().collect();
    let (inner, last) = (body[1..body.len() - 1].join("\n"), body[body.len() - 1]);
    let key = made.key.serialize_pem();
    let cases: &[(String, &[&str])] = &[
        (String::new(), &["empty"]),
        (" \n\n".into(), &["empty"]),
        ("hello\n".into(), &["no certificates"]),
        (inner.clone(), &["line 1", "without its beginning"]),
        (format!("{inner}\n{last}"), &["without its beginning"]),
        (
            format!("-----BEGIN CERTIFICATE-----\n{inner}\n"),
            &["line 1", "no end"],
        ),
        (pem.replace("-----END", "----END"), &["no proper end"]),
        (
            pem.replace("END CERTIFICATE", "END X509 CRL"),
            &["no proper end"],
        ),
        (
            format!("-----BEGIN CERTIFICATE----\n{inner}\n{last}\n"),
            &["without its beginning"],
        ),
        (
            format!("{pem}\n{pem}\nsomething else\n"),
            &["follows the last section"],
        ),
        (format!("{pem}\n{key}"), &["PRIVATE KEY", "file of its own"]),
        (pem.replace("CERTIFICATE", "SURPRISE"), &["\"SURPRISE\""]),
        (
            pem.replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
            &["openssl x509"],
        ),
        (pem.replacen('M', "!", 3), &["garbled"]),
        (
            "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n".into(),
            &["garbled"],
        ),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
            &["no certificate"],
        ),
    ];
    for (text, words) in cases {
        assert_fault(certificates(&folder.file("ca.pem", text)), words);
    }
    assert_fault(
        certificates(&folder.file("ca.der", &made.der)),
        &["DER", "openssl"],
    );
    assert_fault(
        certificates(&folder.path().join("none.pem")),
        &["none.pem", "no such file"],
    );
    assert_fault(certificates(folder.path()), &["cannot be read"]);
}

#[test]
fn one_key_is_read_and_no_more() {
    let folder = Folder::new();
    let made = root("a");
    let pem = made.key.serialize_pem();
    let read = |text: &str| key(&folder.file("a.key", text));
    assert_eq!(read(&pem).unwrap().secret_der(), made.key.serialized_der());
    let parameters =
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    assert!(read(&format!("{parameters}{pem}")).is_ok());
    assert_fault(read(parameters), &["0 private keys"]);
    assert_fault(
        read(&format!("{pem}{pem}")),
        &["2 private keys", "exactly one"],
    );
    assert_fault(read(&made.pem), &["CERTIFICATE"]);
    let encrypted = pem.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    assert_fault(read(&encrypted), &["passphrase"]);
    let encrypted = pem.replace(
        "PRIVATE KEY-----\n",
        "RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n",
    );
    assert_fault(read(&encrypted), &["encrypted"]);
    // A fault never shows what is in the file.
    let fault = read(&format!("{pem}{pem}"))
        .expect_err("a fault")
        .to_string();
    assert!(!fault.contains(pem.lines().nth(1).unwrap()));
}

#[test]
fn lists_are_whole() {
    let folder = Folder::new();
    let ca = root("a");
    let list = ca.crl(&[]).signed_by(&ca.issuer()).unwrap();
    let der = list.der().to_vec();
    let pem = list.pem().unwrap();
    assert_eq!(
        crls(&folder.file("a.crl", &der)).unwrap(),
        std::slice::from_ref(&der)
    );
    let twice = crls(&folder.file("a.crl", format!("{pem}{pem}"))).unwrap();
    assert_eq!(twice, [der.clone(), der.clone()]);
    assert_fault(
        crls(&folder.file("a.crl", &der[..der.len() - 1])),
        &["cut off"],
    );
    assert_fault(
        crls(&folder.file("a.crl", [&der[..], &[0]].concat())),
        &["cut off"],
    );
    assert_fault(crls(&folder.file("a.crl", "")), &["empty"]);
    assert_fault(
        crls(&folder.file("a.crl", &ca.pem)),
        &["CERTIFICATE", "revocation lists"],
    );
}

/// A path that leads to no file keeps nobody waiting, and fills no memory (threats.md T8).
#[test]
fn what_never_ends_is_not_read() {
    let folder = Folder::new();
    let long = folder.file("long.pem", "x".repeat(100));
    for path in [long.parent().unwrap(), Path::new("/dev/zero")] {
        assert_fault(certificates(path), &["no regular file"]);
    }
    assert!(read_regular(&long, 99).is_err());
    assert_eq!(read_regular(&long, 100).unwrap().len(), 100);
}
