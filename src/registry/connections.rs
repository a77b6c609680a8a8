//! A few connections to a store, each lent to one question at a time.
//!
//! Not sqlx's own pool, for three reasons. It tries a refused connection again until its time is over and then tells nothing
//! but that; here the reason comes at once. A question that is dropped half-way would leave its connection to a task that
//! waits for an answer which may never come, and holds its place meanwhile; here such a connection is closed. And a server that
//! stands still cannot use up the places for longer than a deadline.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{Connection as _, Database, Transaction};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::fault::Stop;

/// For a place among the few.
const TURN: Duration = Duration::from_secs(2);

/// For a connection that rested to show that it lives.
const PING: Duration = Duration::from_secs(1);

/// For one answer, and for the end of a change. Longer than a store waits for a lock, which it can tell more about.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// For what can be left out, if need be: to undo what the store would undo itself, to say good-bye.
const COURTESY: Duration = Duration::from_secs(1);

/// A few connections: made when needed, kept while they are whole.
pub(super) struct Few<D: Database> {
    places: Semaphore,
    resting: Mutex<Vec<D::Connection>>,
}

/// A connection on loan, with its place among the few. Dropped without [`Lent::give_back`], it is closed; the store undoes what was begun on it.
pub(super) struct Lent<'a, D: Database> {
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

    /// Lends one: that rested, or, with `open`, a new one.
    ///
    /// Dropping it half-way costs nothing.
    pub(super) async fn lend<F>(&self, open: impl FnOnce() -> F) -> Result<Lent<'_, D>, Stop>
    where
        F: Future<Output = Result<D::Connection, Stop>>,
    {
        let Ok(Ok(place)) = timeout(TURN, self.places.acquire()).await else {
            return Err(Stop::NoTurn);
        };
        let connection = match self.rested().await {
            Some(connection) => connection,
            None => Box::pin(open()).await?, // large, and seldom needed
        };
        Ok(Lent {
            connection,
            few: self,
            _place: place,
        })
    }

    /// Says good-bye to the store on those that rest.
    pub(super) async fn close(&self) {
        let resting = std::mem::take(&mut *self.resting());
        for connection in resting {
            let _ = timeout(COURTESY, connection.close()).await;
        }
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
}

impl<D: Database> Lent<'_, D> {
    /// For a question.
    pub(super) fn connection(&mut self) -> &mut D::Connection {
        &mut self.connection
    }

    /// Begins a transaction. Whatever becomes of it, [`end`] comes next.
    pub(super) async fn begin(
        &mut self,
        statement: &'static str,
    ) -> Result<Transaction<'_, D>, Stop> {
        // Boxed, or the compiler does not see that the future of a change may move between threads.
        let begun: BoxFuture<'_, _> = Box::pin(self.connection.begin_with(statement));
        in_time(async { Ok(begun.await?) }).await
    }

    /// Takes it back, as whole as before.
    pub(super) fn give_back(self) {
        self.few.keep(self.connection);
    }
}

/// Ends a transaction: for good, or, when its change failed, undone. Gives too whether its connection is as whole as before.
pub(super) async fn end<D: Database, T>(
    transaction: Transaction<'_, D>,
    change: Result<T, Stop>,
) -> (Result<T, Stop>, bool) {
    match change {
        Ok(value) => match commit(transaction).await {
            Ok(()) => (Ok(value), true),
            Err(stop) => (Err(stop), false),
        },
        Err(Stop::Late) => (Err(Stop::Late), false),
        Err(stop) => {
            let undone = timeout(COURTESY, transaction.rollback()).await;
            (Err(stop), matches!(undone, Ok(Ok(()))))
        }
    }
}

async fn commit<D: Database>(transaction: Transaction<'_, D>) -> Result<(), Stop> {
    match timeout(ANSWER, transaction.commit()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error @ sqlx::Error::Database(_))) => Err(error.into()),
        Ok(Err(_)) | Err(_) => Err(Stop::Unsure),
    }
}

/// Waits for an answer, up to [`ANSWER`].
pub(super) async fn in_time<T>(answer: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
    within(ANSWER, answer).await
}

/// Waits for an answer, up to `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, Stop>>,
) -> Result<T, Stop> {
    timeout(limit, answer).await.unwrap_or(Err(Stop::Late))
}
