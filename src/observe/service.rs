//! What the service manager is told, if there is one: sd_notify(3), the protocol of systemd.
//!
//! Words are queued, and one thread of its own says them: a manager that does not read holds up nobody (threats.md V4). The same thread
//! keeps its watchdog quiet, and only while every worker lives.

mod link;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use link::Link;

/// So many words wait for a manager that does not read; what is more is not said.
const QUEUE: usize = 64;

/// It is looked so often within the time of the watchdog whether the workers live. That is more often than the half that
/// sd_watchdog_enabled(3) advises: one look in which a worker was busy costs no more than a quarter.
const LOOKS: u32 = 4;

/// After so many looks in a row at which a worker had said nothing, the log tells: half of the time is over then.
const STUCK: u32 = 2;

/// Where the service manager listens, from the environment.
#[derive(Debug)]
pub struct Manager {
    link: Option<Link>,
    /// Within this time it wants to hear that we live; `None`: it does not ask.
    watchdog: Option<Duration>,
}

/// Tells the service manager how it is; where there is none, nothing. Its thread ends with the last of its copies.
#[derive(Clone, Debug)]
pub struct Service {
    says: Option<SyncSender<String>>,
    /// It was told that the gate takes devices.
    ready: Arc<AtomicBool>,
    stopping: Arc<AtomicBool>,
}

/// A reload is under way, until this is dropped.
#[derive(Debug)]
#[must_use = "it tells that the reload is over when it is dropped"]
pub struct Reloading {
    service: Service,
    /// Its beginning was told, so its end is, too.
    told: bool,
}

impl Manager {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`, and connects. To be called before the sandbox, which lets nobody connect
    /// to an abstract socket. Gives a warning, too, if it cannot be reached: where it waits for `READY=1`, it waits in vain.
    pub fn find() -> (Self, Option<String>) {
        let variable = |name| std::env::var(name).unwrap_or_default();
        let place = std::env::var_os("NOTIFY_SOCKET").filter(|place| !place.is_empty());
        let link = place.map(|place| {
            Link::open(&place).map_err(|fault| {
                format!(
                    "NOTIFY_SOCKET={}: the service manager cannot be told anything: {fault}; unset it where nobody listens there",
                    place.display()
                )
            })
        });
        let (link, warning) = match link.transpose() {
            Ok(link) => (link, None),
            Err(warning) => (None, Some(warning)),
        };
        let watchdog = watchdog(
            &variable("WATCHDOG_USEC"),
            &variable("WATCHDOG_PID"),
            std::process::id(),
        );
        let watchdog = watchdog.filter(|_| link.is_some());
        (Self { link, watchdog }, warning)
    }

    /// Begins to tell. `silent` gives which workers have said nothing since it last gave none.
    ///
    /// # Errors
    /// When its thread cannot be made.
    pub fn start(
        self,
        silent: impl Fn() -> Vec<usize> + Send + 'static,
    ) -> std::io::Result<Service> {
        let (ready, stopping) = (Arc::default(), Arc::default());
        let Some(link) = self.link else {
            return Ok(Service {
                says: None,
                ready,
                stopping,
            });
        };
        let watch = self.watchdog.map(|within| Watch::new(within, silent));
        let (says, queue) = mpsc::sync_channel(QUEUE);
        thread::Builder::new()
            .name("service".into())
            .spawn(move || serve(&link, &queue, watch))?;
        Ok(Service {
            says: Some(says),
            ready,
            stopping,
        })
    }
}

impl Service {
    /// The gate takes devices.
    pub fn ready(&self) {
        self.ready.store(true, Relaxed);
        self.say("READY=1".into());
    }

    /// The gate reads its configuration or its files anew. Nothing is said of it before [`Self::ready`]: the end of a reload would
    /// be taken for the end of the start.
    pub fn reloading(&self) -> Reloading {
        let told = self.ready.load(Relaxed) && !self.stopping.load(Relaxed);
        if told {
            self.say(format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_usec()));
        }
        let service = self.clone();
        Reloading { service, told }
    }

    /// How it is, in a line for people.
    pub fn status(&self, line: &str) {
        self.say(format!("STATUS={line}"));
    }

    /// The gate drains, for `window` at the most, whatever the manager was told to wait for.
    pub fn stopping(&self, window: Duration) {
        self.stopping.store(true, Relaxed);
        let window = window + LAST_STEPS;
        self.say(format!(
            "STOPPING=1\nEXTEND_TIMEOUT_USEC={}",
            window.as_micros()
        ));
    }

    fn say(&self, words: String) {
        if let Some(says) = &self.says {
            let _ = says.try_send(words); // a manager that has not read so much for so long
        }
    }
}

/// From the end of the window to the end of the process: connections are cut (1 s), the log is written (1.5 s).
const LAST_STEPS: Duration = Duration::from_secs(10);

impl Drop for Reloading {
    fn drop(&mut self) {
        if self.told && !self.service.stopping.load(Relaxed) {
            self.service.ready();
        }
    }
}

/// By the clock that the manager compares it with (systemd.service(5), notify-reload).
fn monotonic_usec() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

/// How long the watchdog waits, as sd_watchdog_enabled(3) reads it: `pid` says whom it is meant for; empty: whoever reads it.
fn watchdog(usec: &str, pid: &str, own: u32) -> Option<Duration> {
    let ours = pid.is_empty() || pid.parse() == Ok(own);
    let usec = usec.parse().ok().filter(|usec| *usec > 0 && ours)?;
    Some(Duration::from_micros(usec))
}

/// Says what is queued, and that we live, for as long as there is a [`Service`].
fn serve<F: Fn() -> Vec<usize>>(
    link: &Link,
    queue: &Receiver<String>,
    mut watch: Option<Watch<F>>,
) {
    loop {
        let wait = watch.as_ref().map_or(Duration::MAX, Watch::wait);
        match queue.recv_timeout(wait) {
            Ok(words) => link.say(&words),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                if watch.as_mut().is_some_and(Watch::look) {
                    link.say("WATCHDOG=1");
                }
            }
        }
    }
}

/// The watch over the workers.
struct Watch<F> {
    silent: F,
    apart: Duration,
    next: Instant,
    /// So many looks in a row found somebody silent.
    in_vain: u32,
}

impl<F: Fn() -> Vec<usize>> Watch<F> {
    fn new(within: Duration, silent: F) -> Self {
        Self {
            silent,
            apart: within / LOOKS,
            next: Instant::now(),
            in_vain: 0,
        }
    }

    /// Until the next look.
    fn wait(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Gives whether all live; tells the log of those who do not.
    fn look(&mut self) -> bool {
        self.next = Instant::now() + self.apart;
        let silent = (self.silent)();
        if silent.is_empty() {
            self.in_vain = 0;
            return true;
        }
        self.in_vain = self.in_vain.saturating_add(1);
        if self.in_vain == STUCK {
            let names: Vec<_> = silent.iter().map(|n| format!("worker-{n}")).collect();
            tracing::error!(
                event = "worker_stuck",
                workers = %names.join(" "),
                "has not got to its tasks for half the time of the watchdog, which is told nothing meanwhile; the service manager is \
                 about to end this gate. Please report it"
            );
        }
        false
    }
}

#[cfg(test)]
mod tests;
