//! A store that is gone, stands still, is locked or full: told as such within seconds, and found again when it is back
//! (threats.md V4, V6). None of it shows a password.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sqlx::{Connection as _, SqliteConnection};
use tidegate::pki::Authority;
use tidegate::registry::{Change, Fault, Filter, Registry, StoreSettings};
use tidegate::rules::record::Record;

use crate::registry::{Store, add, bare, id};
use crate::support::postgres::Cluster;
use crate::support::{soon, until};

/// What "within seconds" is: no question may take longer, whatever the store does.
const SECONDS: Duration = Duration::from_secs(9);

/// The sentence of a question that found nobody to answer.
async fn away<T: std::fmt::Debug>(question: impl Future<Output = Result<T, Fault>>) -> String {
    let began = Instant::now();
    let fault = soon("an answer", question)
        .await
        .expect_err("nobody answers");
    let lasted = began.elapsed();
    println!("after {lasted:.1?}: {fault}");
    assert!(matches!(fault, Fault::Away(_)), "{fault:?}");
    assert!(lasted < SECONDS, "{lasted:?}");
    fault.to_string()
}

async fn changed(registry: &Registry) -> Result<Record, Fault> {
    registry.change(&id("a"), 200, &mut |_| Ok(())).await
}

#[tokio::test]
async fn a_postgres_that_is_gone_still_or_locked_is_found_again() {
    let mut cluster = Cluster::start().await;
    let store = Store::postgres(&cluster, "tidegate").await;
    let (settings, address) = (store.settings.clone(), cluster.address.to_string());
    let registry = store.open().await;
    drop(store);
    add(&registry, &[bare("a")]).await.expect("added");
    let answers = async || {
        let found = registry.find(&id("a")).await.expect("an answer");
        found.expect("it is there");
        changed(&registry).await.expect("changed");
    };

    // Locked by somebody else.
    let mut other = cluster.connect("tidegate").await.expect("it answers");
    let mut lock = other.begin().await.expect("a transaction");
    let held = sqlx::query("LOCK TABLE device IN ACCESS EXCLUSIVE MODE");
    held.execute(&mut *lock).await.expect("locked");
    let (found, changed_it) = join(away(registry.find(&id("a"))), away(changed(&registry))).await;
    for told in [found, changed_it] {
        assert!(told.contains(&address) && told.contains("lock"), "{told}");
    }

    // Standing still: in the middle of a question, with connections in hand, and for new ones.
    let asking = registry.clone();
    let asking = tokio::spawn(async move { away(asking.find(&id("a"))).await });
    let mut watch = cluster.connect("postgres").await.expect("it answers");
    until("the question to wait for the lock", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        let waiting: i64 = sqlx::query_scalar(waiting)
            .fetch_one(&mut watch)
            .await
            .expect("a count");
        (waiting > 0).then_some(())
    })
    .await;
    cluster.freeze();
    let other = async { away(Registry::open(&settings)).await };
    let all = Filter::default();
    let more = join_all((0..10).map(|_| away(registry.count(&all))));
    let (asked, (opened, counted)) = join(asking, join(other, more)).await;
    let told = asked.expect("no panic");
    assert!(
        told.contains("no answer in time") && opened.contains("no answer in time"),
        "{told}"
    );
    assert_eq!(counted.len(), 10);
    let (changed_it, noted) = join(away(changed(&registry)), away(registry.note_seen(&[]))).await;
    assert!(
        changed_it.contains("no answer in time") && noted.contains("no answer in time"),
        "{noted}"
    );
    cluster.thaw();
    lock.rollback().await.expect("let go");
    answers().await;

    // Gone, and back again.
    registry.changed().await.expect("it begins to listen");
    cluster.stop();
    for told in [
        away(registry.find(&id("a"))).await,
        away(changed(&registry)).await,
    ] {
        assert!(
            told.contains(&address) && told.contains("refused"),
            "{told}"
        );
    }
    away(registry.changed()).await;
    away(Registry::open(&settings)).await;
    cluster.come_back().await;
    answers().await;
    registry
        .changed()
        .await
        .expect("told at once: something may have been missed");

    // Whoever listens hears of what others change, and is told when the line is broken.
    let place = registry.place().await.expect("a place");
    let listener = registry.clone();
    let waiting = tokio::spawn(async move { listener.changed().await });
    let other = Registry::open(&settings).await.expect("it opens");
    other.remove(&id("a")).await.expect("removed");
    soon("the change", waiting)
        .await
        .expect("no panic")
        .expect("told");
    let told = registry.changes(place).await.expect("told");
    assert_eq!(told.changes, [Change::Device(id("a"))]);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
    let listener = registry.clone();
    let waiting = tokio::spawn(async move { listener.changed().await });
    cluster.execute("tidegate", end).await;
    soon("the broken line", waiting)
        .await
        .expect("no panic")
        .expect("listening again");
}

/// A change that is dropped half-way is made as a whole or not at all, and holds nothing up.
#[tokio::test]
async fn a_dropped_change_holds_nothing_up() {
    let cluster = Cluster::start().await;
    for store in [Store::sqlite(), Store::postgres(&cluster, "tidegate").await] {
        let registry = store.open().await;
        add(&registry, &[bare("a")]).await.expect("added");
        for wait in 0..40 {
            let wait = Duration::from_micros(wait * 50);
            let _ = tokio::time::timeout(wait, changed(&registry)).await;
            let _ = tokio::time::timeout(wait, registry.find(&id("a"))).await;
        }
        changed(&registry).await.expect("changed");
        registry
            .find(&id("a"))
            .await
            .expect("an answer")
            .expect("it is there");
    }
}

#[tokio::test]
async fn postgres_is_asked_over_tls() {
    let authority = Authority::new("Database CA").expect("a CA");
    let server = authority.server(&["localhost"]).expect("issued");
    let cluster = Cluster::start_with_tls(&server).await;
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let good = write("ca.pem", authority.certificate_pem());
    let stranger = Authority::new("Another CA").expect("a CA");
    let bad = write("other.pem", stranger.certificate_pem());
    let password = write("password", "hunter2 §\n");
    cluster
        .execute("postgres", "CREATE ROLE keyed LOGIN PASSWORD 'hunter2 §'")
        .await;
    cluster
        .execute("postgres", "CREATE DATABASE tidegate OWNER keyed")
        .await;
    let port = cluster.address.port();
    let open = async |host: &str, parameters: &str, password_file: Option<_>| {
        let url = format!("postgres://keyed@{host}:{port}/tidegate?{parameters}");
        Registry::open(&StoreSettings::Postgres { url, password_file }).await
    };
    let full = |ca: &std::path::Path| format!("sslmode=verify-full&sslrootcert={}", ca.display());
    let file = || Some(password.clone());

    let registry = open("localhost", &full(&good), file())
        .await
        .expect("it opens");
    add(&registry, &[bare("a")]).await.expect("added");
    registry.changed().await.expect("it listens, over TLS too");
    open("127.0.0.1", "sslmode=require", file())
        .await
        .expect("TLS, whoever it is");
    open("127.0.0.1", "", file())
        .await
        .expect("TLS, since it is offered");

    let wrong = write("wrong", "hunter3");
    let missing = folder.path().join("missing");
    for (host, parameters, password_file, expected) in [
        ("localhost", full(&bad), file(), "UnknownIssuer"),
        ("127.0.0.1", full(&good), file(), "not valid for name"),
        ("localhost", "sslmode=disable".into(), file(), "pg_hba.conf"),
        (
            "localhost",
            full(&good),
            Some(wrong),
            "password authentication failed",
        ),
        ("localhost", full(&good), None, "password"),
        (
            "localhost",
            full(&good),
            Some(missing),
            "registry.password_file",
        ),
        (
            "localhost",
            "sslmode=verify-ca".into(),
            file(),
            "verify-full",
        ),
        ("localhost", "sslmod=verify-full".into(), file(), "sslmod,"),
        ("localhost", "sslmode=full".into(), file(), "full"),
    ] {
        let fault = open(host, &parameters, password_file)
            .await
            .expect_err("refused");
        println!("{fault}");
        assert!(matches!(fault, Fault::Unusable(_)), "{fault:?}");
        assert!(fault.to_string().contains(expected), "{expected}: {fault}");
        assert!(
            !format!("{fault} {fault:?}").contains("hunter"),
            "{fault:?}"
        );
    }
    assert!(!format!("{registry:?}").contains("hunter"), "{registry:?}");

    // A password in the URL is not shown either, whatever goes wrong.
    for url in [
        format!("postgres://keyed:hunter4@localhost:{port}/tidegate"),
        format!("postgres://keyed:hunter4@localhost:{port}/tidegate?password=hunter4"),
        "postgres://keyed:hunter4@localhost:1/tidegate".into(),
        "postgres://keyed:hunter4@localhost:x/tidegate".into(),
        "postgres://keyed:hunter4@/?sslmode=hunter".into(),
        "keyed:hunter4@localhost".into(),
    ] {
        let settings = StoreSettings::Postgres {
            url,
            password_file: None,
        };
        let fault = Registry::open(&settings).await.expect_err("refused");
        println!("{fault}");
        assert!(
            !format!("{fault} {fault:?}").contains("hunter4"),
            "{fault:?}"
        );
    }

    // A gate may be given no more rights than it needs: the tables are there already.
    cluster.execute("postgres", "CREATE ROLE gate LOGIN").await;
    let grant = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO gate";
    cluster.execute("tidegate", grant).await;
    let url = format!(
        "postgres://gate@localhost:{port}/tidegate?host={}",
        cluster.socket().display()
    );
    let settings = StoreSettings::Postgres {
        url,
        password_file: None,
    };
    let registry = Registry::open(&settings).await.expect("by the socket file");
    changed(&registry).await.expect("changed");
    cluster.execute("postgres", "CREATE DATABASE empty").await;
    let url = format!("postgres://gate@localhost:{port}/empty");
    let settings = StoreSettings::Postgres {
        url,
        password_file: None,
    };
    let fault = Registry::open(&settings)
        .await
        .expect_err("it may not make tables");
    assert!(fault.to_string().contains("grant it"), "{fault}");
}

#[tokio::test]
async fn an_sqlite_that_is_locked_is_found_again() {
    let store = Store::sqlite();
    let registry = store.open().await;
    add(&registry, &[bare("a")]).await.expect("added");
    let StoreSettings::Sqlite { path } = &store.settings else {
        unreachable!("it is a file");
    };
    let mut other = SqliteConnection::connect(&format!("sqlite://{}", path.display()))
        .await
        .expect("a file");
    sqlx::raw_sql("BEGIN EXCLUSIVE")
        .execute(&mut other)
        .await
        .expect("locked");

    let told = away(changed(&registry)).await;
    assert!(told.contains("another process is writing"), "{told}");
    registry
        .find(&id("a"))
        .await
        .expect("who reads does not wait")
        .expect("it is there");
    Registry::open(&store.settings)
        .await
        .expect("who opens does not wait");

    sqlx::raw_sql("COMMIT")
        .execute(&mut other)
        .await
        .expect("let go");
    changed(&registry).await.expect("changed");
}

#[tokio::test]
async fn an_sqlite_file_that_cannot_be_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("text");
    std::fs::write(
        &text,
        "no database, but longer than the header of one would be: ".repeat(20),
    )
    .expect("written");
    for (path, expected) in [
        (folder.path().join("no/registry.db"), "make its folder"),
        (folder.path().to_owned(), "directory"),
        (text, "not a database"),
    ] {
        let settings = StoreSettings::Sqlite { path };
        let fault = Registry::open(&settings).await.expect_err("refused");
        assert!(matches!(fault, Fault::Unusable(_)), "{fault:?}");
        assert!(fault.to_string().contains(expected), "{expected}: {fault}");
    }
}

/// The kernel refuses to make its files longer, as it would on a full disk. A limit holds for a whole process, so it is one of
/// its own: this test, started again.
#[tokio::test]
async fn an_sqlite_on_a_full_disk_is_found_again() {
    const NAME: &str = "registry_faults::an_sqlite_on_a_full_disk_is_found_again";
    if std::env::var_os("TIDEGATE_TEST_DISK").is_some() {
        return on_a_full_disk().await;
    }
    let mut again = Command::new("sh");
    again
        // Too long a file is to be an error, not the end.
        .args(["-c", "trap '' XFSZ; exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().expect("this test"))
        .arg(NAME)
        .env("TIDEGATE_TEST_DISK", "full")
        .process_group(0);
    let run = again.output().expect("it starts");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&run.stderr)
    );
    assert!(said.contains("1 passed") && said.contains("disk"), "{said}");
}

async fn on_a_full_disk() {
    let store = Store::sqlite();
    let registry = store.open().await;
    add(&registry, &[bare("a")]).await.expect("added");
    let whole = getrlimit(Resource::Fsize);
    let small = Rlimit {
        current: Some(300_000),
        ..whole
    };
    setrlimit(Resource::Fsize, small).expect("limited");

    let many: Vec<_> = (0..20_000)
        .map(|number| bare(&format!("m{number}")))
        .collect();
    let told = away(add(&registry, &many)).await;
    assert!(told.contains("disk"), "{told}");
    let mut refused = None;
    for _ in 0..100 {
        refused = changed(&registry).await.err();
        if refused.is_some() {
            break;
        }
    }
    println!("{}", refused.expect("it is full"));
    let count = registry
        .count(&Filter::default())
        .await
        .expect("it can be read");
    assert_eq!(count, 1, "all or none");

    setrlimit(Resource::Fsize, whole).expect("not limited any more");
    changed(&registry).await.expect("changed");
    add(&registry, &many).await.expect("there is room again");
    let count = registry.count(&Filter::default()).await.expect("counted");
    assert_eq!(count, 20_001);
}
