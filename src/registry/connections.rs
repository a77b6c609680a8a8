//! A few connections to a store, each lent to one question at a time.
//!
//! Not sqlx's own pool, for three reasons. It tries a refused connection again until its time is over and then tells nothing
//! but that; here the reason comes at once. A question that is dropped half-way would leave its connection to a task that
//! waits for an answer which may never come, and holds its place meanwhile; here such a connection is closed. And a server that
//! stands still cannot use up the places for longer than a deadline.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::{Connection as _, Database};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::fault::Stop;

/// For a place among the few.
const TURN: Duration = Duration::from_secs(2);

/// For a connection that rested to show that it lives.
const PING: Duration = Duration::from_secs(1);

/// For one answer, and for the end of a change. Longer than a store waits for a lock, which it can tell more about.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// For the end of a change to be undone.
const UNDO: Duration = Duration::from_secs(1);

/// A few connections: made when needed, kept while they are whole.
pub(super) struct Few<D: Database> {
    places: Semaphore,
    resting: Mutex<Vec<D::Connection>>,
}

/// A connection on loan. Dropped without [`Lent::give_back`], it is closed; the store undoes what was begun on it.
struct Lent<'a, D: Database> {
    connection: D::Connection,
    few: &'a Few<D>,
    _place: SemaphorePermit<'a>,
}

impl<D: Database> fmt::Debug for Few<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} left", self.places.available_permits())
    }
}

impl<D: Database> Few<D> {
    /// Up to `most` at once.
    pub(super) fn new(most: usize) -> Self {
        Self {
            places: Semaphore::new(most),
            resting: Mutex::default(),
        }
    }

    /// Keeps a connection that was made elsewhere.
    pub(super) fn keep(&self, connection: D::Connection) {
        self.resting().push(connection);
    }

    fn resting(&self) -> std::sync::MutexGuard<'_, Vec<D::Connection>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn lend(
        &self,
        open: impl AsyncFnOnce() -> Result<D::Connection, Stop>,
    ) -> Result<Lent<'_, D>, Stop> {
        let Ok(Ok(place)) = timeout(TURN, self.places.acquire()).await else {
            return Err(Stop::NoTurn);
        };
        let connection = match self.rested().await {
            Some(connection) => connection,
            None => open().await?,
        };
        Ok(Lent {
            connection,
            few: self,
            _place: place,
        })
    }

    /// One that rested and lives. When one hangs, so will the others: all are closed.
    async fn rested(&self) -> Option<D::Connection> {
        loop {
            let mut connection = self.resting().pop()?;
            match timeout(PING, connection.ping()).await {
                Ok(Ok(())) => return Some(connection),
                Ok(Err(_)) => {}
                Err(_) => self.resting().clear(),
            }
        }
    }

    /// Asks something that changes nothing.
    ///
    /// Dropped half-way, it closes its connection.
    pub(super) async fn read<T>(
        &self,
        open: impl AsyncFnOnce() -> Result<D::Connection, Stop>,
        question: impl AsyncFnOnce(&mut D::Connection) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        let mut lent = self.lend(open).await?;
        let answer = in_time(question(&mut lent.connection)).await;
        if answer.is_ok() {
            lent.give_back();
        }
        answer
    }

    /// Changes something in one transaction, `begin`, within `limit`: all of it or, on an error, nothing.
    ///
    /// Dropped half-way, it closes its connection, and the store undoes what was done.
    pub(super) async fn write<T>(
        &self,
        open: impl AsyncFnOnce() -> Result<D::Connection, Stop>,
        begin: &'static str,
        limit: Duration,
        change: impl AsyncFnOnce(&mut D::Connection) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        let mut lent = self.lend(open).await?;
        let mut transaction =
            in_time(async { Ok(lent.connection.begin_with(begin).await?) }).await?;
        match within(limit, change(&mut transaction)).await {
            Ok(value) => {
                commit(transaction).await?;
                lent.give_back();
                Ok(value)
            }
            Err(Stop::Late) => Err(Stop::Late),
            Err(stop) => {
                if let Ok(Ok(())) = timeout(UNDO, transaction.rollback()).await {
                    lent.give_back();
                }
                Err(stop)
            }
        }
    }
}

async fn commit<D: Database>(transaction: sqlx::Transaction<'_, D>) -> Result<(), Stop> {
    match timeout(ANSWER, transaction.commit()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error @ sqlx::Error::Database(_))) => Err(error.into()),
        Ok(Err(_)) | Err(_) => Err(Stop::Unsure),
    }
}

impl<D: Database> Lent<'_, D> {
    fn give_back(self) {
        self.few.keep(self.connection);
    }
}

/// Waits for an answer, up to [`ANSWER`].
pub(super) async fn in_time<T>(answer: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
    within(ANSWER, answer).await
}

async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, Stop>>,
) -> Result<T, Stop> {
    timeout(limit, answer).await.unwrap_or(Err(Stop::Late))
}
