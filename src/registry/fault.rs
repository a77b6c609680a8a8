//! What went wrong in a store, told as a [`Fault`].

use std::io;

use sqlx::error::{DatabaseError, ErrorKind};

use super::Fault;

/// Why a question stopped half-way.
#[derive(Debug)]
pub(super) enum Stop {
    /// Told already.
    Fault(Fault),
    /// The store said so.
    Store(sqlx::Error),
    /// The store did not answer in time.
    Late,
    /// All connections to it were waiting for an answer.
    NoTurn,
    /// The store got lost while it was to make a change for good.
    Unsure,
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Stop {
    /// Whether what was to be added is there already: an id, or a pin.
    pub(super) fn is_taken(&self) -> bool {
        let Self::Store(sqlx::Error::Database(error)) = self else {
            return false;
        };
        error.kind() == ErrorKind::UniqueViolation
    }

    /// The sentence, with the store's `place`. Never holds a password: what is told of a URL are its host and database.
    pub(super) fn told(self, place: &str) -> Fault {
        let away = |sentence: &str| Fault::Away(format!("{place}: {sentence}"));
        match self {
            Self::Fault(fault) => fault,
            Self::Store(error) => store(&error, place),
            Self::Late => away("no answer in time; is it overloaded, or cut off?"),
            Self::NoTurn => away("it is so slow that all connections to it are waiting"),
            Self::Unsure => away(
                "it was lost at the end of a change, which may or may not have been made; look before you make it again",
            ),
        }
    }
}

fn store(error: &sqlx::Error, place: &str) -> Fault {
    let away = |sentence: String| Fault::Away(format!("{place}: {sentence}"));
    let unusable = |sentence: String| Fault::Unusable(format!("{place}: {sentence}"));
    match error {
        sqlx::Error::Database(error) => match trouble(&**error) {
            Trouble::Passing(hint) => away(format!("{}{hint}", error.message())),
            Trouble::Lasting(hint) => unusable(format!("{}{hint}", error.message())),
        },
        // rustls tells of a certificate that it does not take as invalid data.
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            unusable(format!("{error}{TLS}"))
        }
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            away(format!("{error}; does it run?"))
        }
        sqlx::Error::Io(error) => away(error.to_string()),
        sqlx::Error::Tls(error) => unusable(format!("{error}{TLS}")),
        sqlx::Error::PoolTimedOut => away("nobody answers who could tell of changes".into()),
        sqlx::Error::WorkerCrashed | sqlx::Error::Protocol(_) => away(error.to_string()),
        other => unusable(other.to_string()),
    }
}

const TLS: &str = "; see sslmode and sslrootcert of registry.url";

/// Whether the same question may go well later; with what to do.
enum Trouble {
    Passing(&'static str),
    Lasting(&'static str),
}

fn trouble(error: &dyn DatabaseError) -> Trouble {
    let code = error.code().unwrap_or_default();
    match code.parse::<u32>() {
        // SQLSTATE has five characters; no result code of SQLite has so many digits.
        Ok(code) if code < 10_000 && error.code().is_some_and(|text| text.len() < 5) => {
            sqlite(code)
        }
        _ => postgres(&code),
    }
}

/// Source: https://www.sqlite.org/rescode.html
fn sqlite(code: u32) -> Trouble {
    use Trouble::{Lasting, Passing};
    match code & 0xff {
        5 | 6 => Passing("; another process is writing: wait until it is done, or end it"),
        7 => Passing(""), // out of memory
        8 => Lasting("; may this user write the file and its folder?"),
        10 | 13 => Passing("; is the disk full, or broken?"),
        14 => Passing("; too many open files, or may this user not open it?"),
        11 | 26 => Lasting("; it is no registry, or damaged: restore it, or name another file"),
        1 => Lasting("; the tables are not as tidegate makes them: use a file of its own"),
        _ => Lasting(""),
    }
}

/// Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
fn postgres(code: &str) -> Trouble {
    use Trouble::{Lasting, Passing};
    match code {
        "55P03" | "57014" => Passing("; it is overloaded, or another transaction holds a lock"),
        "25006" => Passing("; it is a standby, or set to be read only"),
        "42501" => Lasting("; grant it, or make the tables as another user first"),
        "3D000" => Lasting("; make it with createdb, or correct registry.url"),
        _ => match code.get(..2).unwrap_or_default() {
            // Connection, resources (disk full too), limits, interference, system, rolled back.
            "08" | "40" | "53" | "54" | "57" | "58" => Passing(""),
            "28" => Lasting(
                "; see the user of registry.url, registry.password_file, and pg_hba.conf there",
            ),
            "42" => {
                Lasting("; the tables are not as tidegate makes them: use a database of its own")
            }
            _ => Lasting(""),
        },
    }
}
