use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use sqlx::Connection as _;

use super::*;
use crate::registry::Registry;
use crate::registry::token_key::token_key;

/// A folder with or without a registry.
struct Place {
    home: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        Self { home }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn store(&self, name: &str) -> StoreSettings {
        let path = self.file(name);
        StoreSettings::Sqlite { path }
    }

    /// Looks; nothing may be there that was not there before, nor be changed, but for who reads, which SQLite shares in `-shm`.
    /// The files are not opened: closing them would take SQLite's locks away, which are the process's.
    fn look(&self, name: &str) -> Look {
        let all = || {
            let files = fs::read_dir(self.home.path()).expect("a folder");
            let mut all: Vec<_> = files
                .map(|file| file.expect("an entry").path())
                .map(|path| {
                    let data = fs::metadata(&path).expect("there");
                    let shared = path.to_string_lossy().ends_with("-shm");
                    let written = (!shared).then(|| data.modified().expect("told"));
                    (path, data.len(), written)
                })
                .collect();
            all.sort();
            all
        };
        let before = all();
        let look = look(&self.store(name), &self.file("token.key"));
        assert_eq!(before, all(), "a look left something");
        look
    }

    fn execute(&self, name: &str, sql: &'static str) {
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(self.file(name))
            .create_if_missing(true);
        block(async {
            let mut connection = sqlx::SqliteConnection::connect_with(&options)
                .await
                .expect("open");
            sqlx::query(sql)
                .execute(&mut connection)
                .await
                .expect("done");
            connection.close().await.expect("closed");
        });
    }
}

fn block<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().expect("made").block_on(work)
}

#[track_caller]
fn has_fault(look: &Look, key: &str, part: &str) {
    assert_eq!((look.faults.len(), look.warnings.len()), (1, 0), "{look:?}");
    let (found, why) = &look.faults[0];
    assert!(*found == key && why.contains(part), "{look:?}");
}

#[test]
fn what_is_not_there_yet_is_good_if_it_can_be_made() {
    let place = Place::new();
    assert_eq!(place.look("devices.db"), Look::default());
    has_fault(
        &place.look("nowhere/devices.db"),
        "registry.url",
        "make its folder",
    );
    fs::write(place.file("empty.db"), "").expect("written");
    assert_eq!(place.look("empty.db"), Look::default());
}

#[test]
fn a_registry_is_good_at_rest_and_in_use() {
    let place = Place::new();
    let store = place.store("devices.db");
    block(async {
        let registry = Registry::open(&store).await.expect("made");
        let key = token_key(&place.file("token.key"), &registry).await;
        key.expect("made");
        assert_eq!(place.look("devices.db"), Look::default());
        registry.close().await;
    });
    assert_eq!(place.look("devices.db"), Look::default());
}

#[test]
fn what_is_no_registry_of_this_version_is_a_fault() {
    let place = Place::new();
    fs::write(place.file("garbled.db"), "no database".repeat(99)).expect("written");
    has_fault(
        &place.look("garbled.db"),
        "registry.url",
        "it is no registry, or damaged",
    );
    has_fault(&place.look("."), "registry.url", "change registry.url");
    place.execute("other.db", "CREATE TABLE recipe (name TEXT)");
    has_fault(
        &place.look("other.db"),
        "registry.url",
        "tables of something else",
    );
    block(async {
        let registry = Registry::open(&place.store("newer.db")).await;
        registry.expect("made").close().await;
    });
    place.execute(
        "newer.db",
        "INSERT INTO tidegate_schema (version, description, success, checksum, execution_time) VALUES (99, 'x', 1, x'00', 0)",
    );
    has_fault(
        &place.look("newer.db"),
        "registry.url",
        "of a newer tidegate",
    );
}

#[test]
fn the_token_key_is_that_of_the_registry() {
    let place = Place::new();
    let file = place.file("token.key");
    fs::write(&file, "hunter2").expect("written");
    has_fault(
        &place.look("devices.db"),
        "token.key_file",
        "it is no token key",
    );
    fs::remove_file(&file).expect("removed");
    block(async {
        let registry = Registry::open(&place.store("devices.db"))
            .await
            .expect("made");
        token_key(&file, &registry).await.expect("made");
        registry.close().await;
    });
    assert_eq!(place.look("devices.db"), Look::default());
    fs::write(&file, "7".repeat(64)).expect("written");
    has_fault(
        &place.look("devices.db"),
        "token.key_file",
        "is not the key that the registry's tokens are hashed with",
    );
    fs::remove_file(&file).expect("removed");
    has_fault(
        &place.look("devices.db"),
        "token.key_file",
        "is not there, and",
    );
}

#[test]
fn a_server_that_cannot_be_reached_is_a_warning_and_its_password_is_read() {
    let place = Place::new();
    // Nobody accepts: a connection is made, and nothing said.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = |port: u16, file: Option<&str>| StoreSettings::Postgres {
        url: format!("postgres://gate@127.0.0.1:{port}/tidegate?sslmode=disable"),
        password_file: file.map(|name| place.file(name)),
    };
    let port = silent.local_addr().expect("bound").port();
    let began = Instant::now();
    let key = place.file("token.key");
    let found = look(&at(port, None), &key);
    assert!(began.elapsed() < LOOK + Duration::from_secs(1));
    assert!(found.faults.is_empty(), "{found:?}");
    assert!(
        found.warnings[0].1.contains("no answer in time"),
        "{found:?}"
    );
    drop(silent);
    let found = look(&at(port, None), &key);
    assert!(found.faults.is_empty(), "{found:?}");
    assert!(found.warnings[0].1.contains("does it run?"), "{found:?}");
    let found = look(&at(port, Some("nowhere")), &key);
    has_fault(
        &found,
        "registry.password_file",
        "cannot read registry.password_file",
    );
}
