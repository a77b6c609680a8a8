//! `[registry]` and `[token]`

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::registry::StoreSettings;
use crate::rules::policy::{TokenPlace, Unknown};

fn with_registry(lines: &str) -> String {
    good_with("[registry]", lines)
}

#[test]
fn a_registry_needs_no_more_than_a_url() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = Operator::writes(&with_registry("url = \"sqlite://devices.db\""))
        .loads_in(folder.path())
        .expect("good")
        .gate;
    let registry = settings.registry.expect("there is one");
    let StoreSettings::Sqlite { path } = registry.directory.store else {
        panic!("SQLite was written");
    };
    assert_eq!(path, folder.path().join("devices.db"));
    assert_eq!(registry.token_key, folder.path().join("token.key"));
    assert_eq!(registry.unknown, Unknown::Refuse);
    assert_eq!(registry.directory.grace, Duration::from_hours(1));
    assert_eq!(registry.directory.cache_bytes, 64 << 20);
    assert_eq!(settings.token.place, TokenPlace::Password);
    assert!(
        Operator::writes(GOOD)
            .loads()
            .expect("good")
            .gate
            .registry
            .is_none()
    );
}

#[test]
fn each_fault_of_a_registry_tells_by_its_key_with_the_way_out() {
    let write = "write sqlite://tidegate.db, or postgres://user@host/database?sslmode=verify-full";
    let secret = "write the password into a file and name it by password_file; here stands postgres://user@host/database";
    let leg = "write ?sslmode=verify-full (and &sslrootcert=ca.pem, if its CA is your own), or ?sslmode=disable if nobody else can reach that network";
    #[rustfmt::skip]
    let table = [
        ("unknown = \"refuse\"", "registry.url: is missing; write url = \"sqlite://tidegate.db\", or remove [registry] if there is to be none".to_owned()),
        ("url = \"mysql://hunter2\"", format!("registry.url: is neither SQLite nor PostgreSQL; {write}")),
        ("url = \"tidegate.db\"", format!("registry.url: is neither SQLite nor PostgreSQL; {write}")),
        ("url = \"sqlite://\"", "registry.url: names no file; write sqlite://tidegate.db; the file is made if it is not there".into()),
        ("url = \"sqlite://a.db?mode=ro\"", "registry.url: holds options, and SQLite takes none here; write sqlite://tidegate.db".into()),
        ("url = \"postgres://gate:hunter2@localhost/db\"", format!("registry.url: holds a password; {secret}")),
        ("url = \"postgres://gate@localhost/db?password=hunter2\"", format!("registry.url: holds a password; {secret}")),
        ("url = \"postgres://localhost/db\"", "registry.url: names no user; write user@ into postgres://user@host/database".into()),
        ("url = \"postgres://gate@localhost\"", "registry.url: names no database; write /database into postgres://user@host/database".into()),
        ("url = \"postgres://gate@/db\"", "registry.url: names no host; write @host into postgres://user@host/database".into()),
        ("url = \"postgres://gate@localhost/db?sslmod=require\"", "registry.url: holds \"sslmod\", which is not known here; known here: sslmode, sslrootcert, sslcert, sslkey, host, port, user, dbname, application_name".into()),
        ("url = \"postgres://gate@localhost/db?sslmode=full\"", "registry.url: sslmode=\"full\" is not known here; write one of disable | allow | prefer | require | verify-full".into()),
        ("url = \"postgres://gate@localhost/db?sslmode=verify-ca\"", "registry.url: sslmode=verify-ca would take any public CA's certificate for any name; write verify-full".into()),
        ("url = \"postgres://gate@db/db\"", format!("registry.url: \"db\" is not on this host, and sslmode=prefer may speak plaintext to it; {leg}")),
        ("url = \"postgres://gate@localhost/db?host=10.0.0.1&sslmode=allow\"", format!("registry.url: \"10.0.0.1\" is not on this host, and sslmode=allow may speak plaintext to it; {leg}")),
        ("url = \"sqlite://a\"\nunknown = \"ask\"", "registry.unknown: \"ask\" is not known here; write one of refuse | admit | register".into()),
        ("url = \"sqlite://a\"\nregister_quota = 0", "registry.register_quota: 0 is not within 1 to 1000000; leave it out to get 10000".into()),
        ("url = \"sqlite://a\"\ngrace = \"8d\"", "registry.grace: \"8d\" is not within 0s to 7days; leave it out to get 1h".into()),
        ("url = \"sqlite://a\"\ncache = 1", "registry.cache: 1 is not within 1MiB to 2048MiB; leave it out to get 64MiB".into()),
        ("url = \"sqlite://a\"\n[token]\nin = \"client_id\"", "token.in: \"client_id\" is not known here; write one of password | username".into()),
    ];
    for (lines, told) in table {
        assert_eq!(
            Operator::writes(&with_registry(lines)).tells(),
            [told],
            "{lines}"
        );
    }
}

/// Certificates of the connection to PostgreSQL start from the file like every path; the rest is as it was written.
#[test]
fn a_url_of_postgresql_is_kept_with_its_paths_made_absolute() {
    let folder = tempfile::Builder::new()
        .prefix("a b")
        .tempdir()
        .expect("a folder");
    let lines = "url = \"postgresql://gate@[::1]:5433/db?sslmode=verify-full&sslrootcert=ca.pem&sslkey=/k&application_name=a\"\npassword_file = \"secret\"";
    let config = Operator::writes(&with_registry(lines))
        .loads_in(folder.path())
        .expect("good");
    let StoreSettings::Postgres { url, password_file } =
        config.gate.registry.expect("one").directory.store
    else {
        panic!("PostgreSQL was written");
    };
    let there = folder.path().to_str().expect("text").replace(' ', "%20");
    assert_eq!(
        url,
        format!(
            "postgres://gate@[::1]:5433/db?sslmode=verify-full&sslrootcert={there}/ca.pem&sslkey=/k&application_name=a"
        )
    );
    assert_eq!(password_file, Some(folder.path().join("secret")));
}

#[test]
fn what_has_no_effect_or_is_open_to_others_is_warned_of() {
    let warned = |file: &str| Operator::writes(file).loads().expect("good").warnings;
    for (lines, begin) in [
        (
            "url = \"sqlite://a\"\npassword_file = \"p\"",
            "registry.password_file: has no effect on SQLite",
        ),
        (
            "url = \"sqlite://a\"\nregister_quota = 5",
            "registry.register_quota: has no effect",
        ),
        (
            "url = \"sqlite://a\"\nunknown = \"admit\"\nregister_approval = true",
            "registry.register_approval: has no effect",
        ),
        (
            "url = \"postgres://gate@db/db?sslmode=require\"",
            "registry.url: sslmode=require takes whoever answers",
        ),
        (
            "url = \"postgres://gate@db/db?sslmode=disable\"",
            "registry.url: \"db\" is spoken to in plaintext",
        ),
    ] {
        let warnings = warned(&with_registry(lines));
        assert!(
            warnings.len() == 1 && warnings[0].starts_with(begin),
            "{lines}: {warnings:?}"
        );
    }
    for quiet in [
        "url = \"postgres://gate@127.0.0.1/db\"",
        "url = \"postgres://gate@/db?host=/run/postgresql\"",
        "url = \"postgres://gate@db/db?sslmode=verify-full\"",
        "url = \"sqlite://a\"\nunknown = \"register\"\nregister_quota = 5\nregister_approval = true",
    ] {
        assert_eq!(warned(&with_registry(quiet)), [""; 0], "{quiet}");
    }
    let idle = warned(&good_with("[token]", "key_file = \"k\""));
    assert_eq!(idle, ["token.key_file: has no effect without [registry]"]);
}

/// threats.md I3, I7: the registry binds each device to one group, if it lets no others in.
#[test]
fn a_registry_tells_groups_apart_unless_it_admits_whoever_is_vouched_for() {
    let two = |unknown: &str| {
        let vendor = "[[trust]]\nname = \"vendor\"\nca = [\"b.pem\"]\n";
        with_registry(&format!(
            "url = \"sqlite://a\"\nunknown = \"{unknown}\"\n{vendor}"
        ))
    };
    for bound in ["refuse", "register\"\nregister_approval = true #"] {
        assert_eq!(Operator::writes(&two(bound)).tells(), [""; 0], "{bound}");
    }
    // Whoever registers itself first would have the name.
    for unbound in ["admit", "register"] {
        let told = Operator::writes(&two(unbound)).tells();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].starts_with("connect.client_id: \"{device}\" could name devices"),
            "{told:?}"
        );
    }
}

#[test]
fn with_a_registry_a_listener_for_tokens_is_of_use() {
    let listener = "[[listener]]\nname = \"open\"\nbind = \"127.0.0.1:1\"\nmode = \"plain\"\n";
    let file = with_registry(&format!("url = \"sqlite://a\"\n{listener}"));
    assert_eq!(
        Operator::writes(&file).loads().expect("good").warnings,
        [""; 0]
    );
}

#[test]
fn a_key_file_named_in_the_environment_starts_from_the_working_directory() {
    let config = Operator::writes(&with_registry("url = \"sqlite://a\""))
        .sets("TIDEGATE_TOKEN__KEY_FILE", "keys/token.key")
        .loads()
        .expect("good");
    let here = std::env::current_dir().expect("a folder");
    let expected: PathBuf = here.join("keys/token.key");
    assert_eq!(config.gate.registry.expect("one").token_key, expected);
}
