//! The registry in PostgreSQL, shared by many gates.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::Migrate as _;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, QueryBuilder};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::rules::device::DeviceId;

use super::Fault;
use super::connections::{ANSWER, Few, Lent, in_time};
use super::fault::Stop;
use super::look::Kept;
use super::schema;

#[allow(clippy::duplicate_mod, reason = "one text for both stores")]
#[path = "questions/mod.rs"]
pub(super) mod questions;

type Db = sqlx::Postgres;
type Connection = PgConnection;

/// How many connections one gate has, beside the one that listens.
const CONNECTIONS: usize = 4;

/// For a new connection, TLS and password included.
const CONNECT: Duration = Duration::from_secs(2);

/// How long the server works on one statement and waits for a lock, in ms: shorter than [`ANSWER`], since it tells why.
const SERVER_LIMITS: [(&str, &str); 3] = [
    ("statement_timeout", "3000"),
    ("lock_timeout", "2000"),
    // A gate that was cut off half-way through a change must not hold its locks.
    ("idle_in_transaction_session_timeout", "10000"),
];

/// To make the tables, together with all who start at the same time.
const SCHEMA: Duration = Duration::from_secs(30);

/// How often a silent connection is asked whether it still listens.
const STILL_THERE: Duration = Duration::from_secs(15);

pub(super) const BEGIN: &str = "BEGIN";
const CHANNEL: &str = "tidegate_changes";

/// The first of the two numbers of an advisory lock of ours: "tide", so that others in the same database stay clear.
const LOCK_CHANGES: i32 = 0x7469_6465;
const LOCK_GROUP: i32 = LOCK_CHANGES + 1;

const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// What may stand behind the `?` of the URL: what sqlx knows. It would pass over anything else.
const PARAMETERS: [&str; 12] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "application_name",
    "options",
];

/// The registry in PostgreSQL, open.
pub(super) struct Postgres {
    options: PgConnectOptions,
    password_file: Option<PathBuf>,
    place: String,
    few: Few<Db>,
    listener: Mutex<Option<PgListener>>,
}

impl fmt::Debug for Postgres {
    /// Without the options, which hold the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("place", &self.place)
            .field("few", &self.few)
            .finish_non_exhaustive()
    }
}

impl Drop for Postgres {
    /// A listener says good-bye in a task, for which there has to be a runtime: without one it goes with the process.
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_err() {
            std::mem::forget(self.listener.get_mut().take());
        }
    }
}

impl Postgres {
    /// Reads the URL. Nobody is called yet.
    pub(super) fn new(url: &str, password_file: Option<&Path>) -> Result<Self, Fault> {
        let options = options(url)?;
        Ok(Self {
            place: place(&options),
            options,
            password_file: password_file.map(Path::to_owned),
            few: Few::new(CONNECTIONS),
            listener: Mutex::default(),
        })
    }

    /// Makes the tables, or brings them up to date.
    pub(super) async fn prepare(&self) -> Result<(), Stop> {
        let migrator = schema::postgres();
        let mut lent = self.reader().await?;
        let done = lent.connection().list_applied_migrations(schema::TABLE);
        let done = in_time(async { Ok(done.await) }).await?;
        if schema::is_current(&migrator, done)? {
            lent.give_back();
            return Ok(());
        }
        drop(lent);
        // All who start at once wait here for the one who has sqlx's lock. It goes with the connection, which is not kept.
        let longer = SERVER_LIMITS.map(|(name, _)| (name, "30000"));
        let mut connection = self.connect(self.options.clone().options(longer)).await?;
        let done = timeout(SCHEMA, migrator.run_direct(None, &mut connection, false)).await;
        done.map_err(|_| Stop::Late)?.map_err(schema::stop)?;
        let _ = timeout(CONNECT, connection.close()).await;
        Ok(())
    }

    /// Looks at the tables and makes none. Tells what the registry keeps of the token key.
    pub(super) async fn look(&self) -> Result<Kept, Stop> {
        let mut lent = self.reader().await?;
        let done = lent.connection().list_applied_migrations(schema::TABLE);
        let done = in_time(async { Ok(done.await) }).await?;
        if !schema::is_current(&schema::postgres(), done)? {
            return Ok(None);
        }
        let kept = in_time(questions::token_key(lent.connection())).await?;
        self.close().await;
        Ok(kept)
    }

    /// The time by the server's clock, in seconds since 1970.
    pub(super) async fn time(&self) -> Result<f64, Stop> {
        const NOW: &str = "SELECT extract(epoch FROM clock_timestamp())::float8";
        let mut lent = self.reader().await?;
        let asked = sqlx::query_scalar(NOW).fetch_one(lent.connection());
        let time = in_time(async { Ok(asked.await?) }).await?;
        lent.give_back();
        self.close().await;
        Ok(time)
    }

    /// For sentences.
    pub(super) fn place(&self) -> String {
        self.place.clone()
    }

    /// A connection for a question.
    pub(super) async fn reader(&self) -> Result<Lent<'_, Db>, Stop> {
        self.few.lend(|| self.connect(self.options.clone())).await
    }

    /// A connection for a change.
    pub(super) async fn writer(&self) -> Result<Lent<'_, Db>, Stop> {
        self.reader().await
    }

    /// Says good-bye to the server, which would note in its log that it was left without.
    pub(super) async fn close(&self) {
        self.few.close().await;
    }

    /// A change was made: the server tells of it.
    pub(super) fn note_change(&self) {
        let _ = self;
    }

    /// Waits until somebody tells of a change, or something could have been missed.
    pub(super) async fn changed(&self) -> Result<(), Stop> {
        let mut listener = self.listener.lock().await;
        let heard = match &mut *listener {
            Some(listener) => hear(listener).await,
            None => Heard::Lost,
        };
        if let Heard::Lost = heard {
            *listener = None;
            *listener = Some(self.listen().await?);
        }
        Ok(())
    }

    async fn listen(&self) -> Result<PgListener, Stop> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CONNECT)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_slow_threshold(CONNECT * 2)
            .connect_lazy_with(self.with_password(self.options.clone())?);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        in_time(async { Ok(listener.listen(CHANNEL).await?) }).await?;
        Ok(listener)
    }

    async fn connect(&self, options: PgConnectOptions) -> Result<Connection, Stop> {
        let options = self.with_password(options)?;
        let connecting = timeout(CONNECT, Connection::connect_with(&options)).await;
        Ok(connecting.map_err(|_| Stop::Late)??)
    }

    /// The file is read for each connection: a password can be changed without a restart.
    fn with_password(&self, options: PgConnectOptions) -> Result<PgConnectOptions, Fault> {
        let Some(file) = &self.password_file else {
            return Ok(options);
        };
        let password = password(file)?;
        Ok(options.password(password.trim_end_matches(['\r', '\n'])))
    }
}

/// Reads the file with the password.
pub(super) fn password(file: &Path) -> Result<String, Fault> {
    std::fs::read_to_string(file).map_err(|error| {
        let file = file.display();
        Fault::Unusable(format!(
            "cannot read registry.password_file {file}: {error}; let this user read it, or correct the key"
        ))
    })
}

enum Heard {
    Change,
    Lost,
}

/// Waits for a notification, and sees to it that the silence is no broken line.
async fn hear(listener: &mut PgListener) -> Heard {
    loop {
        match timeout(STILL_THERE, listener.try_recv()).await {
            Ok(Ok(Some(_))) => {
                while listener.next_buffered().is_some() {}
                return Heard::Change;
            }
            Ok(Ok(None) | Err(_)) => return Heard::Lost,
            Err(_) => {
                let asked = sqlx::query("SELECT 1").execute(&mut *listener);
                if !matches!(timeout(ANSWER, asked).await, Ok(Ok(_))) {
                    return Heard::Lost;
                }
            }
        }
    }
}

/// Reads the URL as libpq does, as far as it goes.
fn options(url: &str) -> Result<PgConnectOptions, Fault> {
    let unusable = |sentence: String| Err(Fault::Unusable(sentence));
    if !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
        return unusable("registry.url is no postgres://USER@HOST/DATABASE; correct it".into());
    }
    for name in parameters(url) {
        if !PARAMETERS.contains(&name) {
            let known = PARAMETERS.join(", ");
            return unusable(format!(
                "registry.url has the parameter {name}, which is not known here; known are {known}"
            ));
        }
    }
    let options: PgConnectOptions = match url.parse() {
        Ok(options) => options,
        Err(error) => {
            let reason = innermost(&error);
            return unusable(format!("registry.url cannot be read: {reason}; correct it"));
        }
    };
    // sqlx adds sslrootcert to the public CAs. With no look at the name, any of their certificates would do.
    if matches!(options.get_ssl_mode(), PgSslMode::VerifyCa) {
        return unusable(
            "registry.url has sslmode=verify-ca, which would take any public CA's certificate for any name; \
             write verify-full"
                .into(),
        );
    }
    let named = options.get_application_name().is_some();
    let options = if named {
        options
    } else {
        options.application_name("tidegate")
    };
    Ok(options.options(SERVER_LIMITS).disable_statement_logging())
}

fn innermost(error: &dyn Error) -> &dyn Error {
    error.source().map_or(error, innermost)
}

fn parameters(url: &str) -> impl Iterator<Item = &str> {
    let (_, query) = url.split_once('?').unwrap_or_default();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split('=').next().unwrap_or_default())
}

/// For sentences: never with a password.
fn place(options: &PgConnectOptions) -> String {
    let database = options
        .get_database()
        .unwrap_or_else(|| options.get_username());
    match options.get_socket() {
        Some(folder) => format!("PostgreSQL in {}, database {database}", folder.display()),
        None => {
            let (host, port) = (options.get_host(), options.get_port());
            format!("PostgreSQL at {host}:{port}, database {database}")
        }
    }
}

/// The labels hold this one; an empty value: whatever it says.
fn push_label(query: &mut QueryBuilder<Db>, name: &str, value: &str) {
    query.push("(labels::json ->> ").push_bind(name);
    if value.is_empty() {
        query.push(") IS NOT NULL");
    } else {
        query.push(") = ").push_bind(value);
    }
}

/// Lets nobody else change the device until the end of the transaction. What is read of it afterwards is the latest.
async fn hold_device(connection: &mut Connection, device: &DeviceId) -> Result<(), Stop> {
    let query = sqlx::query("SELECT id FROM device WHERE id = $1 FOR UPDATE");
    query.bind(device.as_str()).execute(connection).await?;
    Ok(())
}

/// Lets nobody else register by the trust group until the end of the transaction.
async fn hold_group(connection: &mut Connection, group: &str) -> Result<(), Stop> {
    let query = sqlx::query("SELECT pg_advisory_xact_lock($1, hashtext($2))");
    query
        .bind(LOCK_GROUP)
        .bind(group)
        .execute(connection)
        .await?;
    Ok(())
}

/// Lets nobody else number a change until the end of the transaction: the order of numbers is that of commits.
async fn hold_changes(connection: &mut Connection) -> Result<(), Stop> {
    let query = sqlx::query("SELECT pg_advisory_xact_lock($1, 0)");
    query.bind(LOCK_CHANGES).execute(connection).await?;
    Ok(())
}

/// A device that is being removed is waited for, then passed over.
const LOCK_SEEN: &str = " FOR KEY SHARE OF d";

/// At the commit, wakes those who listen.
async fn tell(connection: &mut Connection) -> Result<(), Stop> {
    sqlx::query("NOTIFY tidegate_changes")
        .execute(connection)
        .await?;
    Ok(())
}
