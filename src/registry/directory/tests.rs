//! Against a store that answers from a script, in tokio's paused time; and with real threads where they are the point.

use std::fmt::Display;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::fake::{Fake, device};
use super::{Directory, Found, Whom, thread};
use crate::rules::record::{Pin, Record};

mod anew;
mod away;
mod changes;
mod fill;
mod look_ups;
mod others;
mod races;
mod strangers;
mod threads;

/// `registry.grace`
const GRACE: Duration = Duration::from_mins(1);

/// How often the changes are read.
const EVERY: Duration = Duration::from_millis(200);

/// No test waits for longer, in paused time.
const FOR_EVER: Duration = Duration::from_hours(1);

const MEMORY: u64 = 1 << 20;

/// A directory whose thread is a task beside the test.
async fn with(fake: &Fake, test: impl AsyncFnOnce(&Directory)) {
    let (_alive, alive) = watch::channel(());
    let (directory, mailbox) = Directory::new(MEMORY, GRACE, alive);
    let shared = directory.shared.clone();
    let (first, _outcome) = sync_channel(1);
    let open = async || fake.reach().await.map(|()| fake.clone());
    tokio::select! {
        () = thread::run(open, EVERY, &shared, mailbox, &first) => panic!("the thread ended"),
        done = timeout(FOR_EVER, test(&directory)) => done.expect("it waits for ever"),
    }
}

/// The same, once it has read from the store.
async fn with_open(fake: &Fake, test: impl AsyncFnOnce(&Directory)) {
    let begun = async |directory: &Directory| {
        until(|| directory.is_away().is_none()).await;
        test(directory).await;
    };
    with(fake, begun).await;
}

async fn until(is_so: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if is_so() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("it never came to that");
}

/// Lets the thread do all that it can do now.
async fn let_it_work() {
    sleep(Duration::from_millis(1)).await;
}

fn named(name: impl Display) -> Whom {
    Whom::Device(device(name))
}

/// By its certificate; the key is nobody's.
fn by_pin(number: u8) -> Whom {
    Whom::Pinned([pin(number), Pin::Key([number; 32])])
}

fn pin(number: u8) -> Pin {
    Pin::Certificate([number; 32])
}

/// What was found, in short: the version of the record, or nobody, or not now.
#[derive(Debug, Eq, PartialEq)]
enum Short {
    Version(u64),
    Nobody,
    NotNow,
}

fn short(found: &Found) -> Short {
    match found {
        Found::Known(record) => Short::Version(version(record)),
        Found::Unknown => Short::Nobody,
        Found::Away(_) => Short::NotNow,
    }
}

/// See [`fake::record`].
fn version(record: &Record) -> u64 {
    record.created.unsigned_abs()
}

impl Directory {
    async fn finds(&self, whom: &Whom) -> Short {
        short(&self.look_up(whom).await)
    }
}
