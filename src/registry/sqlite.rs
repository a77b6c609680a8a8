//! The registry in a file: SQLite.
//!
//! Write-ahead log: who reads does not wait for who writes, nor the other way round. One connection writes, since SQLite knows
//! one writer. `synchronous = FULL`: a device that was disabled stays so after a power cut; a change costs one sync of the disk
//! for it, and changes are rare. Other processes may change the file at the same time.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::fs::Access;
use sqlx::error::DatabaseError;
use sqlx::migrate::Migrate as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, QueryBuilder, SqliteConnection};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::rules::device::DeviceId;

use super::Fault;
use super::connections::{ANSWER, Few, Lent};
use super::fault::Stop;
use super::look::Kept;
use super::schema;

#[allow(clippy::duplicate_mod, reason = "one text for both stores")]
#[path = "questions/mod.rs"]
pub(super) mod questions;

type Db = sqlx::Sqlite;
type Connection = SqliteConnection;

/// How long to wait for another process that writes.
const BUSY: Duration = Duration::from_secs(3);

/// How many read at once.
const READERS: usize = 2;

/// Takes the one writer's place at once: a reader that became a writer half-way could be refused.
pub(super) const BEGIN: &str = "BEGIN IMMEDIATE";

/// The registry in a file, open.
#[derive(Debug)]
pub(super) struct Sqlite {
    path: PathBuf,
    /// The file that was opened.
    opened: OnceLock<Option<(u64, u64)>>,
    readers: Few<Db>,
    writer: Few<Db>,
    /// What this process changed, for [`Sqlite::changed`].
    told: Notify,
}

impl Sqlite {
    /// Makes the file, if it is not there, for this user alone.
    pub(super) fn new(path: &Path) -> Result<Self, Fault> {
        make(path)?;
        Ok(Self {
            path: path.to_owned(),
            opened: OnceLock::new(),
            readers: Few::new(READERS),
            writer: Few::new(1),
            told: Notify::new(),
        })
    }

    /// Makes the tables, or brings them up to date.
    pub(super) async fn prepare(&self) -> Result<(), Stop> {
        let mut connection = self.connect().await?;
        write_ahead(&mut connection).await?;
        bring_up_to_date(&mut connection).await?;
        self.writer.keep(connection);
        Ok(())
    }

    /// For sentences.
    pub(super) fn place(&self) -> String {
        self.path.display().to_string()
    }

    /// A connection for a question.
    pub(super) async fn reader(&self) -> Result<Lent<'_, Db>, Stop> {
        self.same_file()?;
        self.readers.lend(|| self.connect()).await
    }

    /// The connection for a change.
    pub(super) async fn writer(&self) -> Result<Lent<'_, Db>, Stop> {
        self.same_file()?;
        self.writer.lend(|| self.connect()).await
    }

    /// Sees that the file is the one that was opened: of one that was taken away, or exchanged, nobody else sees what is read or
    /// written here.
    fn same_file(&self) -> Result<(), Stop> {
        let now = which(&self.path);
        if *self.opened.get_or_init(|| now) == now && now.is_some() {
            return Ok(());
        }
        let sentence = format!(
            "{} was taken away, or another file put in its place, while it was open; put it back, or restart the gate",
            self.place()
        );
        Err(Fault::Away(sentence).into())
    }

    /// Closes the file, so that its write-ahead log goes with the last who has it open.
    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// A change was made.
    pub(super) fn note_change(&self) {
        self.told.notify_one();
    }

    /// Waits for a change by this process. One by another is found by asking.
    pub(super) async fn changed(&self) -> Result<(), Stop> {
        self.told.notified().await;
        Ok(())
    }

    async fn connect(&self) -> Result<Connection, Stop> {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(false)
            .busy_timeout(BUSY)
            .foreign_keys(true)
            .synchronous(SqliteSynchronous::Full)
            // What a large import leaves of the write-ahead log.
            .pragma("journal_size_limit", "16777216")
            // KiB of pages for each connection, where 2 MiB are usual: devices are remembered elsewhere, and there are several.
            .pragma("cache_size", "-512")
            // The sandbox lets nothing be written but beside the registry.
            .pragma("temp_store", "MEMORY")
            .disable_statement_logging();
        Ok(Connection::connect_with(&options).await?)
    }
}

/// Makes the file, if it is not there; tells the system's own reason if it cannot be used. What SQLite puts beside it gets the same
/// mode.
///
/// A file that is there is not opened: closing it would take away the locks of whoever has it open in this process (fcntl(2)), and
/// then others believe that nobody has, and take its log away.
fn make(path: &Path) -> Result<(), Fault> {
    let made = could_write(path).and_then(|is_there| {
        if is_there {
            return Ok(());
        }
        let mut open = OpenOptions::new();
        match open.write(true).create_new(true).mode(0o600).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.map(drop),
        }
    });
    made.map_err(|error| cannot_open(path, &error))
}

/// Which file is at `path`: device and number; `None`: none.
fn which(path: &Path) -> Option<(u64, u64)> {
    let data = std::fs::metadata(path).ok()?;
    Some((data.dev(), data.ino()))
}

fn cannot_open(path: &Path, error: &io::Error) -> Fault {
    let way_out = match error.kind() {
        io::ErrorKind::NotFound => "make its folder",
        io::ErrorKind::PermissionDenied => "let this user write the file and its folder",
        _ => "see to it",
    };
    let path = path.display();
    Fault::Unusable(format!(
        "cannot open the registry {path}: {error}; {way_out}, or change registry.url"
    ))
}

/// Looks at the file and makes nothing, neither it nor what SQLite puts beside it. Tells what the registry keeps of the token key;
/// a file that is not there yet keeps nothing.
pub(super) async fn look(path: &Path) -> Result<Kept, Stop> {
    if !could_write(path).map_err(|error| cannot_open(path, &error))? {
        return Ok(None);
    }
    // Without a write-ahead log nobody has it open, and SQLite need make none. With one it is read, and left as it is.
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let at_rest = !std::fs::exists(&log).map_err(|error| cannot_open(path, &error))?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .read_only(true)
        .immutable(at_rest)
        .busy_timeout(BUSY)
        .disable_statement_logging();
    let mut connection = Connection::connect_with(&options).await?;
    let kept = kept(&mut connection).await;
    let _ = connection.close().await; // nothing was written
    kept
}

/// Whether the file is there.
///
/// # Errors
/// This user may not write it or what SQLite puts beside it, or could not make it. It is not opened: closing it would take away the
/// locks of whoever has it open in this process.
fn could_write(path: &Path) -> io::Result<bool> {
    let folder = path.parent().filter(|name| !name.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK)?;
    match std::fs::metadata(path) {
        Ok(data) if data.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => {
            rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK)?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

async fn kept(connection: &mut Connection) -> Result<Kept, Stop> {
    let done = connection.list_applied_migrations(schema::TABLE).await;
    if schema::is_current(&schema::sqlite(), done)? {
        return questions::token_key(connection).await;
    }
    let others = "SELECT EXISTS (SELECT 1 FROM sqlite_schema) AND NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = $1)";
    let others = sqlx::query_scalar(others).bind(schema::TABLE);
    if others.fetch_one(connection).await? {
        let sentence =
            "it holds the tables of something else; name a file of its own by registry.url";
        return Err(Fault::Unusable(sentence.into()).into());
    }
    Ok(None)
}

/// Sets the journal to write-ahead, which stays with the file. While others open a new file at the same time, SQLite refuses
/// this without waiting for its turn.
async fn write_ahead(connection: &mut Connection) -> Result<(), Stop> {
    let until = Instant::now() + ANSWER;
    loop {
        let query = sqlx::query_scalar("PRAGMA journal_mode = WAL");
        match query.fetch_one(&mut *connection).await {
            Ok::<String, _>(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                let sentence = format!(
                    "SQLite cannot keep a write-ahead log there (journal_mode {mode}); use a local disk"
                );
                return Err(Fault::Unusable(sentence).into());
            }
            Err(error) if !is_busy(&error) || Instant::now() > until => return Err(error.into()),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| code == "5" || code == "261") // SQLITE_BUSY, SQLITE_BUSY_RECOVERY
}

/// All steps in one transaction, so that one of many who start at once takes them.
async fn bring_up_to_date(connection: &mut Connection) -> Result<(), Stop> {
    let migrator = schema::sqlite();
    let done = connection.list_applied_migrations(schema::TABLE).await;
    if schema::is_current(&migrator, done)? {
        return Ok(());
    }
    let mut transaction = connection.begin_with(BEGIN).await?;
    let done = migrator.run_direct(None, &mut *transaction, false).await;
    done.map_err(schema::stop)?;
    transaction.commit().await?;
    Ok(())
}

/// The labels hold this one; an empty value: whatever it says.
fn push_label(query: &mut QueryBuilder<Db>, name: &str, value: &str) {
    query
        .push("EXISTS (SELECT 1 FROM json_each(labels) label WHERE label.key = ")
        .push_bind(name);
    if !value.is_empty() {
        query.push(" AND label.value = ").push_bind(value);
    }
    query.push(")");
}

/// The writer is alone: nothing need be held.
async fn hold_device(_: &mut Connection, _: &DeviceId) -> Result<(), Stop> {
    Ok(())
}

async fn hold_group(_: &mut Connection, _: &str) -> Result<(), Stop> {
    Ok(())
}

async fn hold_changes(_: &mut Connection) -> Result<(), Stop> {
    Ok(())
}

const LOCK_SEEN: &str = "";

/// Nobody can listen.
async fn tell(_: &mut Connection) -> Result<(), Stop> {
    Ok(())
}
