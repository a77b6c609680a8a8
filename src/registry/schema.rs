//! The tables, and how they are brought up to date.

use std::borrow::Cow;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{AppliedMigration, MigrateError, Migration, MigrationType, Migrator};

use super::Fault;
use super::fault::Stop;

/// Where it is kept which steps were done: a name of ours, since others may use sqlx in the same database.
pub(super) const TABLE: &str = "tidegate_schema";

/// The steps from nothing to the tables of this version, oldest first. One that was released never changes.
fn migrator(steps: &[(i64, &'static str, &'static str)]) -> Migrator {
    let steps = steps.iter().map(|&(version, name, sql)| {
        let name = Cow::Borrowed(name);
        Migration::new(
            version,
            name,
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    });
    let mut migrator = Migrator::with_migrations(steps.collect());
    migrator.dangerous_set_table_name(TABLE);
    migrator
}

/// The steps of SQLite.
pub(super) fn sqlite() -> Migrator {
    migrator(&[(1, "devices", include_str!("schema/sqlite_1.sql"))])
}

/// The steps of PostgreSQL.
pub(super) fn postgres() -> Migrator {
    migrator(&[(1, "devices", include_str!("schema/postgres_1.sql"))])
}

/// Whether all steps were done. Asked first, so that a gate needs no right to make tables where they are there.
///
/// # Errors
/// [`Fault::Unusable`], when steps were done that this version does not know.
pub(super) fn is_current(
    migrator: &Migrator,
    done: Result<Vec<AppliedMigration>, MigrateError>,
) -> Result<bool, Stop> {
    let done = match done {
        Ok(done) => done,
        Err(MigrateError::Execute(error)) if is_missing_table(&error) => return Ok(false),
        Err(error) => return Err(stop(error)),
    };
    if let Some(newer) = done
        .iter()
        .find(|one| !migrator.version_exists(one.version))
    {
        return Err(too_new(newer.version));
    }
    let same = |step: &Migration| {
        done.iter()
            .any(|one| one.version == step.version && one.checksum == step.checksum)
    };
    Ok(migrator.iter().all(same))
}

fn is_missing_table(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    error.is_some_and(|error| {
        error.code().is_some_and(|code| code == "42P01")
            || error.message().starts_with("no such table")
    })
}

fn too_new(version: i64) -> Stop {
    let sentence = format!(
        "the registry's tables are of a newer tidegate (step {version} was done); run that one, or use another database"
    );
    Fault::Unusable(sentence).into()
}

/// Why the steps could not be done.
pub(super) fn stop(error: MigrateError) -> Stop {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            Stop::Store(error)
        }
        MigrateError::VersionMissing(version) => too_new(version),
        other => {
            let sentence = format!(
                "the registry's tables are not as tidegate made them ({other}); use a database of its own, or restore it"
            );
            Fault::Unusable(sentence).into()
        }
    }
}
