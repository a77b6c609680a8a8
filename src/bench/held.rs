//! Connections that stand: what they say meanwhile, and how it is seen when one is lost.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::link::{Heard, Link};
use super::stage::Seat;
use super::trouble::Trouble;

const PINGREQ: &[u8] = &[0xc0, 0];
const PINGRESP: &[u8] = &[0xd0, 0];

/// One thread's connections that stand, each beyond its CONNACK.
pub(super) struct Held {
    tasks: RefCell<JoinSet<()>>,
    /// How often each says PINGREQ; `None`: never.
    keep_alive: Option<Duration>,
    /// How long the answer may take.
    timeout: Duration,
    close: watch::Sender<bool>,
}

impl Held {
    /// None yet.
    pub(super) fn new(keep_alive: Option<Duration>, timeout: Duration) -> Self {
        Self {
            tasks: RefCell::default(),
            keep_alive,
            timeout,
            close: watch::channel(false).0,
        }
    }

    /// Holds this one too. If it is lost, it has failed after all.
    pub(super) fn take(&self, seat: &Rc<Seat>, link: Link) {
        let (keep_alive, timeout) = (self.keep_alive, self.timeout);
        let (seat, closing) = (seat.clone(), self.close.subscribe());
        let held = hold(seat, link, keep_alive, timeout, closing);
        self.tasks.borrow_mut().spawn_local(held);
    }

    /// Comes when there is none (any more).
    pub(super) async fn all_lost(&self) {
        let next = |cx: &mut std::task::Context<'_>| self.tasks.borrow_mut().poll_join_next(cx);
        while std::future::poll_fn(next).await.is_some() {}
    }

    /// Closes all, as devices do.
    pub(super) async fn end(&self) {
        let _ = self.close.send(true);
        self.all_lost().await;
    }
}

/// Holds one until the end, or until it is lost.
async fn hold(
    seat: Rc<Seat>,
    mut link: Link,
    keep_alive: Option<Duration>,
    timeout: Duration,
    mut closing: watch::Receiver<bool>,
) {
    let kept = async {
        match keep_alive {
            None => silent(&mut link).await,
            Some(every) => pinging(&seat, &mut link, every, timeout).await,
        }
    };
    let lost = tokio::select! {
        biased; // what was lost before the end is no success
        lost = kept => Some(lost),
        _ = closing.wait_for(|closing| *closing) => None,
    };
    match lost {
        None => link.bye(true),
        Some(Trouble { word, said }) => {
            let word = match word {
                "reset" => "reset_while_held",
                "timeout" => "timeout_while_held",
                _ => "closed_while_held",
            };
            seat.book().lose(Trouble { word, said });
        }
    }
}

/// Hears nothing but the end, which it gives.
async fn silent(link: &mut Link) -> Trouble {
    loop {
        match link.read(&mut Vec::new()).await {
            Ok(Heard::Something) => {}
            Ok(Heard::Goodbye | Heard::End) => return Trouble::closed(),
            Err(trouble) => return trouble,
        }
    }
}

/// Says PINGREQ every so often, the first time at a moment of its own so that not all do at once, until the end.
async fn pinging(seat: &Seat, link: &mut Link, every: Duration, timeout: Duration) -> Trouble {
    let mut rest = every.mul_f64(fastrand::f64());
    loop {
        if let Ok(lost) = tokio::time::timeout(rest, silent(link)).await {
            return lost;
        }
        rest = every;
        let asked = Instant::now();
        match tokio::time::timeout(timeout, ping(link)).await {
            Ok(Ok(())) => seat.book().time("ping", asked.elapsed()),
            Ok(Err(trouble)) => return trouble,
            Err(_) => return Trouble::of("timeout"),
        }
    }
}

async fn ping(link: &mut Link) -> Result<(), Trouble> {
    link.say(PINGREQ)?;
    link.flush().await?;
    let mut heard = Vec::new();
    while !heard.ends_with(PINGRESP) {
        if link.read(&mut heard).await? != Heard::Something {
            return Err(Trouble::closed());
        }
    }
    Ok(())
}
