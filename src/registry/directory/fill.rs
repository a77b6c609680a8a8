//! Fills memory with the devices of the registry, so that one that calls for the first time costs no question: a question
//! and its answer wake three threads, and take as long as a fifth of a handshake.
//!
//! It begins once the changes are read, and goes on beside look-ups, a page at a time. What changes while a page is under way is left
//! out of it ([`Desk::take_page`]). It ends where memory is full: nothing is pushed out for it.

use std::cell::RefCell;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::rules::device::DeviceId;

use super::desk::{Desk, Taken};
use super::store::Store;
use super::{DEADLINE, Shared};

/// So many devices are asked for at once: a look-up that comes meanwhile waits for no more.
const PAGE: u32 = 256;

/// After it is done it looks no sooner whether there is something to do again; nor does it try again sooner after a failure.
const PAUSE: Duration = Duration::from_secs(5);

/// How often it looks whether the store is there.
const LOOK: Duration = Duration::from_millis(50);

/// Fills memory at the start, and again whenever everything was forgotten; for as long as it is polled.
pub(super) async fn fill<S: Store>(store: &S, shared: &Shared, desk: &RefCell<Desk<'_>>) {
    loop {
        let era = shared.memory.era();
        read_all(store, shared, desk).await;
        sleep(PAUSE).await;
        while era == shared.memory.era() {
            sleep(PAUSE).await;
        }
    }
}

/// Reads page after page, to the last or until memory is full.
async fn read_all<S: Store>(store: &S, shared: &Shared, desk: &RefCell<Desk<'_>>) {
    let mut after: Option<DeviceId> = None;
    loop {
        // Not before the changes are read: one from before their beginning would be told to nobody.
        while !shared.standing.is_there() {
            sleep(LOOK).await;
        }
        desk.borrow_mut().begin_page();
        let page = timeout(DEADLINE, store.page(after.as_ref(), PAGE)).await;
        let Ok(Ok(page)) = page else {
            sleep(PAUSE).await;
            continue;
        };
        let Some(last) = page.last().map(|record| record.device.clone()) else {
            return;
        };
        match desk.borrow_mut().take_page(page) {
            Taken::All => after = Some(last),
            Taken::Nothing => {}
            Taken::Full => return,
        }
        tokio::task::yield_now().await;
    }
}
