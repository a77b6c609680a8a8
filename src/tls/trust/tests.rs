#![allow(clippy::unwrap_used)] // a test that panics has failed

use super::*;
use crate::tls::testing::*;

fn faults(settings: &[&Settings]) -> Vec<String> {
    let faults = Groups::load(settings).expect_err("faults");
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn every_fault_of_every_group_is_told_at_once() {
    let folder = Folder::new();
    let (ca, sub) = (root("Factory CA"), root("Factory CA").sub_ca("Line 1"));
    let leaf = ca.device("meter-7");
    let mut a = folder.group("a", &[&ca, &leaf], &[&sub, &leaf], &["garbage".into()]);
    a.ca.push(folder.path().join("missing.pem"));
    let b = folder.group("b", &[], &[], &[]);
    let faults = faults(&[&a, &b]);
    let expected = [
        (
            "trust[a].ca: ",
            "a-ca.pem: certificate 2 of the file: \"CN=meter-7\" is not a CA",
        ),
        ("trust[a].ca: ", "missing.pem: there is no such file"),
        (
            "trust[a].intermediates: ",
            "certificate 2 of the file: \"CN=meter-7\" is not a CA",
        ),
        ("trust[a].crl: ", "a-0.crl: it holds no revocation lists"),
        ("trust[b].ca: ", "no anchor is given"),
    ];
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
    for (fault, (key, words)) in faults.iter().zip(expected) {
        assert!(fault.starts_with(key) && fault.contains(words), "{fault}");
    }
}

#[test]
fn bytes_that_are_no_certificate_are_a_fault() {
    let folder = Folder::new();
    let mut settings = folder.group("a", &[], &[], &[]);
    let pem = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
    settings.ca = vec![folder.file("ca.pem", pem)];
    assert!(faults(&[&settings])[0].contains("no well-formed X.509 certificate"));
}

/// I7: which group a device belongs to is never a matter of chance.
#[test]
fn a_ca_is_in_one_group_of_a_listener() {
    let folder = Folder::new();
    let (ca, other) = (root("Factory CA"), root("Other CA"));
    let a = folder.group("a", &[&ca], &[], &[]);
    let b = folder.group("b", &[&other, &ca], &[], &[]);
    let faults = faults(&[&a, &b]);
    assert_eq!(faults.len(), 1);
    assert!(faults[0].starts_with("trust[b].ca: \"CN=Factory CA\" is an anchor of trust[a] too"));
    // R4: a CA of the same name with another key is another CA; the same certificate twice in one group is no harm.
    let namesake = root("Factory CA");
    let c = folder.group("c", &[&namesake, &namesake], &[], &[]);
    assert!(Groups::load(&[&a, &c]).is_ok());
}

/// threats.md I3: two CAs give the same serials, so a serial names devices of one CA only.
#[test]
fn a_serial_names_the_devices_of_one_ca_only() {
    let folder = Folder::new();
    let (ca, other) = (root("Factory CA"), root("Other CA"));
    let sub = ca.sub_ca("Line 1");
    let by_serial = |name: &str, cas: &[&Made], intermediates: &[&Made]| {
        let mut group = folder.group(name, cas, intermediates, &[]);
        group.naming.field = Field::Serial;
        group
    };
    for several in [
        by_serial("a", &[&ca, &other], &[]),
        by_serial("b", &[&ca], &[&sub]),
        by_serial("c", &[&ca, &root("Factory CA")], &[]), // of the same name, with another key
    ] {
        let faults = faults(&[&several]);
        assert_eq!(faults.len(), 1, "{faults:?}");
        let key = format!("trust[{}].device: \"serial\" cannot name", several.name);
        assert!(faults[0].starts_with(&key), "{faults:?}");
    }
    for one in [
        by_serial("d", &[&ca, &ca], &[]),
        by_serial("e", &[&sub], &[]),
    ] {
        assert!(Groups::load(&[&one]).is_ok());
    }
}

#[test]
fn what_runs_out_is_warned_of() {
    let folder = Folder::new();
    let day = 24 * 3600;
    let root = root("Factory CA");
    let sub = root.issues(ca("Line 1"), |ca| ca.not_after = now() + days(40));
    let settings = folder.group("fleet", &[&root], &[&sub], &[root.crl_pem(&[])]);
    let groups = Groups::load(&[&settings]).unwrap();
    let has = |warnings: &[String], words: &str| warnings.iter().any(|w| w.contains(words));
    let at_first = groups.warnings(NOW);
    assert_eq!(at_first.len(), 1, "{at_first:?}");
    assert!(at_first[0].starts_with("trust[fleet].crl: \"CN=Line 1\" has no revocation list"));
    let later = groups.warnings(NOW + 15 * day);
    assert!(has(
        &later,
        "trust[fleet].intermediates: \"CN=Line 1\" ends on 2026-02-10"
    ));
    assert!(has(&later, "was to be replaced by 2026-01-08"));
    let much_later = groups.warnings(NOW + 400 * day);
    assert!(has(
        &much_later,
        "trust[fleet].ca: \"CN=Factory CA\" ended on"
    ));
    assert!(has(&groups.warnings(NOW - 2 * day), "still to come"));
    assert_eq!(
        groups.next_updates(),
        [("fleet: CN=Factory CA".to_owned(), NOW + 7 * day)]
    );
}

/// threats.md T8, T9: once a group has a list, whoever has none is told by name, with the way out; who has one is not.
#[test]
fn a_ca_without_a_list_is_warned_of_once_its_group_has_one() {
    let folder = Folder::new();
    let (old, new) = (root("Factory CA"), root("Vendor CA"));
    let told = |cas: &[&Made], lists: &[String]| {
        let settings = folder.group("fleet", cas, &[], lists);
        Groups::load(&[&settings]).unwrap().warnings(NOW)
    };
    let (lists, both) = ([old.crl_pem(&[])], [old.crl_pem(&[]), new.crl_pem(&[])]);
    assert_eq!(
        told(&[&old, &new, &new], &lists),
        [
            "trust[fleet].crl: \"CN=Vendor CA\" has no revocation list, so devices that it issued are refused \
             (crl_missing); add its list"
        ]
    );
    let none: [&str; 0] = [];
    assert_eq!(told(&[&old, &new], &both), none);
    assert_eq!(told(&[&old, &new], &[]), none, "nobody asks");
}

/// threats.md R4: a CA's successor under its name is told apart by its serial; its new certificate for its old key is no other CA.
#[test]
fn of_two_cas_of_one_name_the_one_without_a_list_is_told_by_its_serial() {
    let folder = Folder::new();
    let (old, new) = (root("Factory CA"), root("Factory CA"));
    let settings = folder.group("fleet", &[&old, &new], &[], &[old.crl_pem(&[])]);
    let serial = Certificate::read(&new.der).unwrap().serial;
    let warnings = Groups::load(&[&settings]).unwrap().warnings(NOW);
    let begins =
        format!("trust[fleet].crl: \"CN=Factory CA\" (serial {serial}) has no revocation list");
    assert!(
        warnings.len() == 1 && warnings[0].starts_with(&begins),
        "{warnings:?}"
    );

    let renewed = self_signed(
        ca("Factory CA"),
        rcgen::KeyPair::try_from(old.key.serialize_der()).unwrap(),
    );
    let settings = folder.group("fleet", &[&old, &renewed], &[], &[old.crl_pem(&[])]);
    let warnings = Groups::load(&[&settings]).unwrap().warnings(NOW);
    assert!(warnings.is_empty(), "{warnings:?}");
}

/// T2: what could take part in a path is found by name, however much the operator trusts.
#[test]
fn only_what_the_chain_names_is_looked_at() {
    let cas: Vec<Made> = (0..20).map(|n| root(&format!("CA {n}"))).collect();
    let subs: Vec<Made> = cas.iter().map(|ca| ca.sub_ca("Line")).collect();
    let lone = cas[3].sub_ca("Lone");
    let mut intermediates: Vec<&Made> = subs.iter().collect();
    intermediates.push(&lone);
    let groups = group(&cas.iter().collect::<Vec<_>>(), &intermediates, &[]);
    let device = lone.device("meter-7");
    let issuer = Front::read(&device.der).unwrap().issuer;
    let candidates = groups.candidates(vec![issuer, issuer]);
    assert_eq!(
        (candidates.anchors.len(), candidates.intermediates.len()),
        (1, 1)
    );
    assert_eq!(candidates.owners.len(), 1);
}
