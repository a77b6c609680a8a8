//! Finding a broker that takes the connection, in time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use crate::rules::device::DeviceId;
use crate::tls::client::ClientTls;

use super::balance::Choice;
use super::endpoint::{At, Endpoint, Preface, Unreached};
use super::names::{Before, Endpoints};
use super::pace::{NoPlace, Place};
use super::probe::Prober;
use super::socket::Socket;
use super::sources::Sources;
use super::{Balance, Settings};

pub use super::endpoint::Kept;
pub use super::names::Broker;

/// One that swallows the attempt leaves time for so many others; each takes what it needs.
const SHARES: u32 = 3;

/// An operator is told that ports are wanting at most once in so many ms.
const APART: u64 = 10_000;

/// The way out.
const MORE_PORTS: &str = "add addresses of this host to broker.source_addresses, widen net.ipv4.ip_local_port_range, or add a broker";

/// A probe takes no longer, however rarely there is one.
const LONGEST_PROBE: Duration = Duration::from_secs(10);

/// The brokers of a gate.
#[derive(Debug)]
pub struct Brokers {
    all: Vec<Broker>,
    pub(super) endpoints: Endpoints,
    pub(super) sources: Sources,
    pub(super) prober: Prober,
    balance: Balance,
    turn: AtomicUsize,
    dial_timeout: Duration,
    born: Instant,
    /// When an operator was last told that ports are wanting, in ms since `born`; 0: never.
    told_no_port: AtomicU64,
}

/// For whom a broker is dialled.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Who was admitted.
    pub device: &'a DeviceId,
    /// What the broker is sent before anything else, as soon as it took the connection: a PROXY header; mostly nothing.
    pub preface: &'a [u8],
}

/// A broker took the connection.
#[derive(Debug)]
pub struct Dialled {
    /// The link to it, ready for a CONNECT.
    pub socket: Socket,
    /// Which one, in the order of the configuration.
    pub place: usize,
    /// Its endpoint, which wants to hear of the CONNACK.
    pub leg: Leg,
    /// Local ports for it run out: a sentence for the operator, once for each time that it comes to that.
    pub few_ports: Option<String>,
}

/// A connection whose CONNACK has not come yet: it holds a place at its endpoint.
#[derive(Debug)]
pub struct Leg {
    kept: Kept,
    place: Place,
    began: Instant,
}

/// No broker took the connection.
#[derive(Debug)]
pub enum NoBroker {
    /// They refused, or said nothing in time.
    Away {
        /// What the last one tried said.
        last: String,
    },
    /// The gate has no file descriptor left.
    OutOfDescriptors,
    /// Every local port for them is in use.
    OutOfPorts {
        /// For which broker, how many there are, and the way out.
        why: String,
        /// An operator is to be told: at most once in ten seconds.
        tell: bool,
    },
}

impl Brokers {
    /// The brokers of `settings`, with its `[broker.tls]`; names are not looked up yet.
    ///
    /// # Panics
    /// When an address is `mqtts://` and there is no `tls`, or the address's host is no name that a certificate could be for.
    pub fn new(settings: &Settings, tls: Option<&ClientTls>) -> Self {
        Self::succeeding(settings, tls, None)
    }

    /// The same after other brokers, whose connections stay where they are: where an address is the same, who is connected there
    /// is counted on, and what is known of it stays. The `bool`: `[broker.tls]` and its files are what they were.
    ///
    /// # Panics
    /// As [`Brokers::new`].
    pub fn succeeding(
        settings: &Settings,
        tls: Option<&ClientTls>,
        old: Option<(&Self, bool)>,
    ) -> Self {
        let (brokers, endpoints) = Endpoints::new(
            &settings.addresses,
            settings.proxy_protocol,
            tls,
            old.map(|(old, same_tls)| Before {
                brokers: &old.all,
                endpoints: &old.endpoints,
                same_tls,
            }),
        );
        Self {
            all: brokers,
            endpoints,
            sources: Sources::new(&settings.source_addresses),
            prober: Prober::new(settings.probe, settings.health_interval.min(LONGEST_PROBE)),
            balance: settings.balance,
            turn: AtomicUsize::new(0),
            dial_timeout: settings.dial_timeout,
            born: Instant::now(),
            told_no_port: AtomicU64::new(0),
        }
    }

    /// Every broker, in the order of the configuration.
    pub fn all(&self) -> &[Broker] {
        &self.all
    }

    /// Whether the broker at `place` answers; of a name, any of its addresses.
    pub fn is_up(&self, place: usize) -> bool {
        let endpoints = self.endpoints.load();
        let mut its = endpoints.iter().filter(|one| one.place == place);
        its.any(|one| one.standing.is_up())
    }

    /// Whether any broker answers.
    pub fn any_up(&self) -> bool {
        self.endpoints.load().iter().any(|one| one.standing.is_up())
    }

    /// Whether every broker is known to be away, by its probe or by what devices found; a device can then be turned away before it
    /// costs anything (threats.md V5). What is not known yet is not away. A few loads for each endpoint.
    pub fn known_away(&self) -> bool {
        let endpoints = self.endpoints.load();
        endpoints.iter().all(|one| one.standing.is_down())
            && !self.all.iter().any(Broker::is_looked_for)
    }

    /// Whether a device that began its handshake now would find a place: not where every broker that answers came back a moment ago
    /// and has as many waiting for their CONNACK as it may. Where none answers there is none to wait for. A few loads for each
    /// endpoint.
    pub fn has_room(&self) -> bool {
        let endpoints = self.endpoints.load();
        let mut left = endpoints
            .iter()
            .filter(|one| !one.standing.is_down())
            .peekable();
        left.peek().is_none() || left.any(|one| one.standing.pace.has_room())
    }

    /// Connects to a broker that takes the connection within `dial_timeout`: the best by `broker.balance` of those that answer, then
    /// the others. Where a broker that came back has as many waiting as it may, waits for a place. Only the connecting is tried again
    /// elsewhere, never a CONNECT (threats.md V5). Waiting takes three quarters of the time at most, and an attempt that it cut short
    /// is no mark against the broker.
    ///
    /// `tried` is told of each attempt: which broker, how it went, how long it took. Dropping it half-way drops the
    /// attempt.
    ///
    /// # Errors
    /// [`NoBroker`] once all were tried or the time is over.
    pub async fn dial(
        &self,
        call: Call<'_>,
        mut tried: impl FnMut(usize, &'static str, Duration),
    ) -> Result<Dialled, NoBroker> {
        let called = Instant::now();
        let deadline = called + self.dial_timeout;
        let mut queue = Queue {
            until: called + self.dial_timeout * 3 / 4,
            waited: false,
        };
        let turn = self.turn.fetch_add(1, Relaxed);
        let choice = Choice::new(self.balance, turn, call.device.as_str());
        let mut failed = Failed::default();
        while let Some((endpoint, left)) = self.best(&choice, &failed.endpoints) {
            let kept = endpoint.clone().take(); // counted from here on, so that those who dial at once spread
            let came = Instant::now();
            let place = match queue.enter(&endpoint).await {
                Ok(place) => place,
                Err(NoPlace::Changed) => continue,
                Err(NoPlace::Full) => {
                    tried(endpoint.place, "paced", came.elapsed());
                    failed.last = Some(self.told(&endpoint, why_paced(&endpoint)));
                    break;
                }
            };
            let began = Instant::now();
            let share = deadline.saturating_duration_since(began) / left.clamp(1, SHARES);
            let reached = timeout(
                share,
                endpoint.connect(&self.sources, Preface::Given(call.preface)),
            )
            .await;
            let took = began.elapsed();
            match reached {
                Ok(Ok(socket)) => {
                    tried(endpoint.place, "ok", took);
                    endpoint.standing.takes();
                    let leg = Leg { kept, place, began };
                    return Ok(Dialled {
                        socket,
                        place: endpoint.place,
                        leg,
                        few_ports: self.few_ports(&endpoint),
                    });
                }
                Ok(Err(Unreached::Io(fault))) if is_out_of_descriptors(&fault) => {
                    tried(endpoint.place, "out_of_descriptors", took);
                    return Err(NoBroker::OutOfDescriptors);
                }
                Ok(Err(Unreached::NoPort)) => {
                    tried(endpoint.place, "no_port", took);
                    endpoint.standing.note_no_port();
                    failed.without_port = Some(endpoint.clone());
                }
                Ok(Err(fault)) => {
                    let result = if matches!(fault, Unreached::Tls(_)) {
                        "tls_failed"
                    } else {
                        "refused"
                    };
                    tried(endpoint.place, result, took);
                    endpoint.standing.refused(began);
                    failed.last = Some(self.told(&endpoint, &fault.to_string()));
                }
                Err(_) => {
                    tried(endpoint.place, "timeout", took);
                    if !queue.waited {
                        endpoint.standing.refused(began);
                    }
                    // What was left of the time is no round number.
                    let waited = share.as_micros().saturating_add(500) / 1000;
                    let waited = Duration::from_millis(waited.try_into().unwrap_or(u64::MAX));
                    failed.last =
                        Some(self.told(&endpoint, &format!("did not answer within {waited:?}")));
                }
            }
            failed.endpoints.push(endpoint);
        }
        Err(self.no_broker(failed))
    }

    /// The next endpoint to try, and how many are left with it.
    fn best(&self, choice: &Choice, tried: &[Arc<Endpoint>]) -> Option<(Arc<Endpoint>, u32)> {
        let endpoints = self.endpoints.load();
        let best = choice.best(&endpoints, tried)?;
        let left = endpoints.len().saturating_sub(tried.len());
        Some((best.clone(), u32::try_from(left).unwrap_or(u32::MAX)))
    }

    fn no_broker(&self, failed: Failed) -> NoBroker {
        let endpoints = self.endpoints.load();
        let lacks = |one: &&Arc<Endpoint>| one.standing.lacks_ports();
        let without_port = failed.without_port.as_ref();
        match (failed.last, without_port.or(endpoints.iter().find(lacks))) {
            (Some(last), _) => NoBroker::Away { last },
            (None, Some(endpoint)) => NoBroker::OutOfPorts {
                why: self.no_port(endpoint),
                tell: self.may_tell(),
            },
            (None, None) => NoBroker::Away {
                last: self.why_nobody(&endpoints),
            },
        }
    }

    /// Why there was nobody to try.
    fn why_nobody(&self, endpoints: &[Arc<Endpoint>]) -> String {
        match endpoints.iter().find(|one| one.standing.is_silent()) {
            Some(silent) => self.told(
                silent,
                "takes connections and answered no CONNECT of late; it is asked each broker.health.interval",
            ),
            None => "no address is known".into(),
        }
    }

    /// What is to be said of an endpoint: with its address, where that is not the broker's own.
    pub(super) fn told(&self, endpoint: &Endpoint, what: &str) -> String {
        let broker = &self.all[endpoint.place];
        match broker.name {
            None => format!("{}: {what}", broker.label),
            Some(_) => format!("{} at {}: {what}", broker.label, endpoint.at),
        }
    }

    fn no_port(&self, endpoint: &Endpoint) -> String {
        let open = endpoint.with_port();
        let what =
            format!("no local port is left for it, {open} connections to it are open or under way");
        self.told(endpoint, &format!("{what}; {MORE_PORTS}"))
    }

    /// Tells once when nine tenths of the ports for `endpoint` are in use, and again when it was below eight tenths since.
    fn few_ports(&self, endpoint: &Endpoint) -> Option<String> {
        let At::Tcp(address) = endpoint.at else {
            return None;
        };
        let (open, room) = (
            u64::from(endpoint.with_port()),
            u64::from(self.sources.room_for(address)),
        );
        if open * 10 < room * 9 {
            if open * 10 < room * 8 && endpoint.account.told_ports.load(Relaxed) {
                endpoint.account.told_ports.store(false, Relaxed);
            }
            return None;
        }
        (!endpoint.account.told_ports.swap(true, Relaxed)).then(|| {
            let what =
                format!("{open} connections to it are open, and there are local ports for {room}");
            self.told(endpoint, &format!("{what}; {MORE_PORTS}"))
        })
    }

    fn may_tell(&self) -> bool {
        let now = u64::try_from(self.born.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let told = self.told_no_port.load(Relaxed);
        let due = told == 0 || now.saturating_sub(told) >= APART;
        due && self
            .told_no_port
            .compare_exchange(told, now, Relaxed, Relaxed)
            .is_ok()
    }
}

/// One call's waiting for places.
struct Queue {
    /// No longer than that.
    until: Instant,
    /// It had to wait.
    waited: bool,
}

impl Queue {
    async fn enter(&mut self, endpoint: &Endpoint) -> Result<Place, NoPlace> {
        let pace = &endpoint.standing.pace;
        match pace.try_enter() {
            Err(NoPlace::Full) => {
                self.waited = true;
                let _waits = endpoint.wait();
                let entered = timeout_at(self.until, pace.enter()).await;
                entered.unwrap_or(Err(NoPlace::Full))
            }
            entered => entered,
        }
    }
}

fn why_paced(endpoint: &Endpoint) -> &'static str {
    if endpoint.standing.is_doubtful() {
        "is not known to answer, and as many as may already dial it"
    } else {
        "came back a moment ago, and is given connections as fast as it answers them"
    }
}

/// What was tried in vain.
#[derive(Default)]
struct Failed {
    endpoints: Vec<Arc<Endpoint>>,
    /// What the last one said.
    last: Option<String>,
    /// There was no local port for this one.
    without_port: Option<Arc<Endpoint>>,
}

impl Leg {
    /// The CONNACK came. `busy`: it says that the broker cannot serve now, so it gets no more at once than before.
    pub fn answered(self, busy: bool) -> Kept {
        let standing = &self.kept.0.standing;
        standing.answers();
        if busy {
            standing.spurns();
        } else {
            standing.serves();
            standing.pace.answered(self.place);
        }
        self.kept
    }

    /// Something else came, or a close: the broker is there. What a device sent may have made it do so, so it is no mark against it,
    /// unless many in a row find it so.
    pub fn spurned(self) {
        let standing = &self.kept.0.standing;
        standing.speaks();
        standing.spurns();
    }

    /// The device left, or was turned away, while nothing had come.
    pub fn abandoned(self) {
        self.kept.0.standing.left(self.began);
    }

    /// Nothing came in time.
    pub fn unanswered(self) {
        self.kept.0.standing.ignored(self.began);
    }
}

/// Whether the process or the host has no file descriptor left.
pub fn is_out_of_descriptors(fault: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = fault.raw_os_error();
    errno == Some(Errno::MFILE.raw_os_error()) || errno == Some(Errno::NFILE.raw_os_error())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::broker::{Balance, Probe};
    use crate::rules::device::Alphabet;

    fn brokers(addresses: &[String]) -> Brokers {
        let address = |text: &String| text.parse().expect("an address");
        let settings = Settings {
            tls: None,
            proxy_protocol: None,
            addresses: addresses.iter().map(address).collect(),
            balance: Balance::LeastConnections,
            source_addresses: Vec::new(),
            dial_timeout: Duration::from_millis(300),
            health_interval: Duration::from_secs(5),
            probe: Probe::Tcp,
        };
        Brokers::new(&settings, None)
    }

    async fn dial(brokers: &Brokers) -> Result<Dialled, NoBroker> {
        let device = Alphabet::default().device("meter-7").expect("a name");
        let call = Call {
            device: &device,
            preface: &[],
        };
        brokers.dial(call, |_, _, _| {}).await
    }

    async fn listening() -> (TcpListener, String) {
        let broker = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("mqtt://{}", broker.local_addr().expect("bound"));
        (broker, address)
    }

    /// threats.md V5: paced on recovery. Each CONNACK lets two more in; who has no turn in time is told that it is our trouble.
    #[tokio::test]
    async fn a_broker_that_came_back_is_given_few_at_first() {
        let (_broker, address) = listening().await;
        let brokers = brokers(&[address]);
        let standing = &brokers.endpoints.of(0)[0].standing;
        standing.fell(false);
        assert!(brokers.known_away());
        // Nobody knows yet that it is back: the first who dial it find that out, and are of the few.
        let mut legs = Vec::new();
        for _ in 0..16 {
            legs.push(dial(&brokers).await.expect("there is a place").leg);
            assert!(!brokers.known_away());
        }
        assert!(!brokers.has_room());
        let Err(NoBroker::Away { last }) = dial(&brokers).await else {
            panic!("one too many");
        };
        assert!(last.contains("came back a moment ago"), "{last}");
        let answer = async {
            tokio::task::yield_now().await;
            legs.pop().expect("one").answered(false)
        };
        let (dialled, kept) = tokio::join!(dial(&brokers), answer);
        assert!(dialled.is_ok() && brokers.has_room());
        assert_eq!(kept.0.open(), 17);
    }

    /// Whoever had to wait for a place leaves the rest of its time to the dial, and if that is too short it is not the broker's fault.
    #[tokio::test(start_paused = true)]
    async fn who_waited_for_a_place_is_no_mark_against_the_broker() {
        use socket2::{Domain, SockAddr, Socket, Type};
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("broker.sock");
        let at = SockAddr::unix(&path).expect("a short path");
        let swallows = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        swallows.bind(&at).expect("bound");
        swallows.listen(0).expect("listens");
        let waits = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        waits.connect(&at).expect("one fits into its queue");
        let brokers = brokers(&[format!("unix://{}", path.display())]);
        let standing = &brokers.endpoints.of(0)[0].standing;
        standing.fell(false);
        standing.takes();
        let tries = async |free_after| {
            let mut inside: Vec<_> =
                std::iter::from_fn(|| standing.pace.try_enter().ok()).collect();
            let device = Alphabet::default().device("meter-7").expect("a name");
            let call = Call {
                device: &device,
                preface: &[],
            };
            let mut results = Vec::new();
            let dialling = brokers.dial(call, |_, result, took| results.push((result, took)));
            let frees = async {
                tokio::time::sleep(Duration::from_millis(free_after)).await;
                drop(inside.pop());
            };
            let (dialled, ()) = tokio::join!(dialling, frees);
            assert!(matches!(dialled, Err(NoBroker::Away { .. })));
            results
        };
        for _ in 0..TIMES {
            let [("timeout", took)] = tries(200).await[..] else {
                panic!("it swallows the attempt");
            };
            assert!(took >= Duration::from_millis(75), "{took:?}");
            let [("paced", took)] = tries(250).await[..] else {
                panic!("there was no place in time");
            };
            assert!(took < Duration::from_millis(230), "{took:?}");
        }
        assert!(standing.is_up());
        for _ in 0..3 {
            assert!(dial(&brokers).await.is_err());
        }
        assert!(standing.is_down(), "these had all their time");
    }

    const TIMES: usize = 4;

    /// One that takes connections and answers no CONNECT is not dialled: a CONNECT that was sent is never sent again.
    #[tokio::test]
    async fn a_silent_broker_gets_no_connect_until_it_answers_one() {
        let (_one, silent) = listening().await;
        let brokers = brokers(std::slice::from_ref(&silent));
        for _ in 0..3 {
            assert!(!brokers.known_away());
            dial(&brokers).await.expect("it listens").leg.unanswered();
        }
        assert!(brokers.known_away());
        let Err(NoBroker::Away { last }) = dial(&brokers).await else {
            panic!("nobody answers");
        };
        assert!(
            last.contains(&silent) && last.contains("answered no CONNECT"),
            "{last}"
        );
        assert_eq!(brokers.endpoints.of(0)[0].open(), 0);
        brokers.endpoints.of(0)[0].standing.answers();
        assert!(dial(&brokers).await.is_ok());
    }

    #[tokio::test]
    async fn without_a_port_devices_are_refused_and_an_operator_is_told_now_and_then() {
        let (_one, address) = listening().await;
        let brokers = brokers(std::slice::from_ref(&address));
        let _open: Vec<_> = (0..30_000)
            .map(|_| brokers.endpoints.of(0).remove(0).take())
            .collect();
        let waiting: Vec<_> = (0..15_000)
            .map(|_| brokers.endpoints.of(0).remove(0))
            .collect();
        let waiting: Vec<_> = waiting.iter().map(|one| one.wait()).collect();
        let dialled = dial(&brokers).await.expect("it listens");
        assert_eq!(dialled.few_ports, None, "who waits for a place has no port");
        drop(waiting);
        let dialled = dial(&brokers).await.expect("it listens");
        let why = dialled.few_ports.expect("nine tenths are in use");
        assert!(
            why.contains(&address) && why.contains("broker.source_addresses"),
            "{why}"
        );
        assert_eq!(
            dial(&brokers).await.expect("it listens").few_ports,
            None,
            "told once"
        );
        brokers.endpoints.of(0)[0].standing.note_no_port();
        for told in [true, false] {
            let Err(NoBroker::OutOfPorts { why, tell }) = dial(&brokers).await else {
                panic!("no port");
            };
            assert!(why.contains(&address) && tell == told, "{why}");
        }
        // Nor is it forgotten while another broker takes its time.
        let failed = Failed {
            without_port: brokers.endpoints.of(0).pop(),
            ..Failed::default()
        };
        tokio::time::sleep(Duration::from_millis(60)).await;
        let none = brokers.no_broker(failed);
        assert!(matches!(none, NoBroker::OutOfPorts { .. }), "{none:?}");
    }
}
