//! Whether the brokers answer, and where they are: asked beside the path, told to the dial, the metrics and `/readyz`.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::dial::Brokers;
use super::endpoint::Endpoint;
use super::names;
use super::probe::Found;

/// One that is down is asked so often at least: devices are turned away meanwhile.
const WHILE_DOWN: Duration = Duration::from_millis(500);

/// What is told of a broker.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Told {
    /// Which one, in the order of the configuration.
    pub place: usize,
    /// Whether it answers; of a name, any of its addresses.
    pub up: bool,
    /// What is new: one of its addresses, or its only one, answers now, or no longer.
    pub news: Option<bool>,
    /// How it answered, or why it does not; of a name, which address.
    pub why: String,
}

/// Asks every broker each `every` whether it answers, for as long as it is polled, and at once when devices find that it does not.
/// `told` hears each answer.
///
/// Each endpoint is asked by itself, so one that is silent does not hide another. Names are looked up again each time; where that
/// takes long, the addresses known before are asked meanwhile (threats.md V4).
pub async fn watch(brokers: &Brokers, every: Duration, told: impl Fn(Told)) {
    let look_up = async |host: &str, port| names::look_up(host, port).await;
    let watch = |place| watch_one(brokers, place, every, &look_up, &told);
    join_all((0..brokers.all().len()).map(watch)).await;
}

async fn watch_one(
    brokers: &Brokers,
    place: usize,
    every: Duration,
    look_up: &impl AsyncFn(&str, u16) -> io::Result<Vec<SocketAddr>>,
    told: &impl Fn(Told),
) {
    let changed = Notify::new();
    let resolving = resolve(brokers, place, every, look_up, told, &changed);
    let probing = probe(brokers, place, every, told, &changed);
    tokio::join!(resolving, probing);
}

/// Looks the name up, if it has one. A look-up that fails keeps the addresses known before.
async fn resolve(
    brokers: &Brokers,
    place: usize,
    every: Duration,
    look_up: &impl AsyncFn(&str, u16) -> io::Result<Vec<SocketAddr>>,
    told: &impl Fn(Told),
    changed: &Notify,
) {
    let broker = &brokers.all()[place];
    let Some((host, port)) = &broker.name else {
        return;
    };
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut first = true;
    let mut looking = None;
    loop {
        ticks.tick().await;
        // A look-up that hangs keeps a thread until it ends: there is never a second one beside it.
        let under_way = looking.get_or_insert_with(|| Box::pin(look_up(host, *port)));
        let found = match timeout(every / 2, under_way.as_mut()).await {
            Ok(found) => {
                looking = None;
                found
            }
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "its name is still being looked up, and no address is known",
            )),
        };
        let late = broker.set_looked();
        match found {
            Ok(addresses) => {
                if brokers.endpoints.lead(place, broker, &addresses, late) {
                    changed.notify_one();
                }
            }
            Err(fault) if brokers.endpoints.of(place).is_empty() => told(Told {
                place,
                up: false,
                news: std::mem::take(&mut first).then_some(false),
                why: fault.to_string(),
            }),
            Err(_) => {}
        }
    }
}

/// Probes each endpoint of the broker, those that its name leads to from now on, too. Never ends.
async fn probe(
    brokers: &Brokers,
    place: usize,
    every: Duration,
    told: &impl Fn(Told),
    changed: &Notify,
) {
    let mut probed: Vec<Arc<Endpoint>> = Vec::new();
    let mut probing = FuturesUnordered::new();
    loop {
        let now = brokers.endpoints.of(place);
        for endpoint in &now {
            if !probed.iter().any(|one| Arc::ptr_eq(one, endpoint)) {
                probing.push(probe_one(brokers, endpoint.clone(), every, told));
            }
        }
        probed = now;
        tokio::select! {
            () = changed.notified() => {}
            Some(()) = probing.next() => {}
        }
    }
}

/// Probes one endpoint until its name leads elsewhere.
async fn probe_one(
    brokers: &Brokers,
    endpoint: Arc<Endpoint>,
    every: Duration,
    told: &impl Fn(Told),
) {
    let standing = &endpoint.standing;
    let place = endpoint.place;
    let mut known = endpoint.known;
    while !endpoint.has_left() {
        let asked = Instant::now();
        brokers.sources.read_ports();
        let found = brokers.prober.ask(&endpoint, &brokers.sources).await;
        let (up, why) = match found {
            Found::Up => {
                standing.answers();
                (true, "it answers".to_owned())
            }
            Found::Takes => {
                standing.takes();
                let silent = standing.is_silent(); // devices found that meanwhile
                let why = if silent {
                    "it answers no CONNECT"
                } else {
                    "it answers"
                };
                (!silent, why.to_owned())
            }
            Found::Down(why) => {
                standing.fell(false);
                (false, why)
            }
            Found::Silent(why) => {
                standing.fell(true);
                (false, why)
            }
            Found::Unknown => {
                pause(&endpoint, asked, every).await;
                continue;
            }
        };
        let news = (known != Some(up)).then_some(up);
        known = Some(up);
        let why = match brokers.all()[place].name {
            Some(_) => format!("{}: {why}", endpoint.at),
            None => why,
        };
        told(Told {
            place,
            up: brokers.is_up(place),
            news,
            why,
        });
        pause(&endpoint, asked, every).await;
    }
}

/// Until the next probe is due; or devices find that it is down, but not at once after the last.
async fn pause(endpoint: &Endpoint, asked: Instant, every: Duration) {
    let every = if endpoint.standing.is_down() {
        every.min(WHILE_DOWN)
    } else {
        every
    };
    sleep_until(asked + every / 5).await;
    let mut due = pin!(sleep_until(asked + every));
    tokio::select! {
        () = &mut due => {}
        () = endpoint.standing.doubted() => {}
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use tokio::net::TcpListener;

    use super::*;
    use crate::broker::{Balance, Probe, Settings};

    type LookedUp = io::Result<Vec<SocketAddr>>;

    fn brokers(address: &str) -> Brokers {
        let settings = Settings {
            addresses: vec![address.parse().expect("an address")],
            tls: None,
            proxy_protocol: None,
            balance: Balance::default(),
            source_addresses: Vec::new(),
            dial_timeout: Duration::from_secs(1),
            health_interval: Duration::from_secs(1),
            probe: Probe::Tcp,
        };
        Brokers::new(&settings, None)
    }

    /// What is told of `brokers`, the only one of which is looked up so, until `enough`.
    async fn told(
        brokers: &Brokers,
        look_up: impl AsyncFn(&str, u16) -> LookedUp,
        enough: impl Fn(&[Told]) -> bool,
    ) -> Vec<Told> {
        let (heard, done) = (RefCell::new(Vec::new()), Notify::new());
        let tell = |told| {
            heard.borrow_mut().push(told);
            if enough(&heard.borrow()) {
                done.notify_one();
            }
        };
        let every = Duration::from_millis(20);
        tokio::select! {
            () = watch_one(brokers, 0, every, &look_up, &tell) => {}
            () = done.notified() => {}
        }
        heard.take()
    }

    /// threats.md V4: a DNS that hangs does not make a broker that answers look dead, nor are look-ups piled up.
    #[tokio::test]
    async fn a_look_up_that_hangs_hides_no_broker_and_is_alone() {
        let broker = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = broker.local_addr().expect("bound");
        let begun = Cell::new(0);
        let brokers = brokers("mqtt://broker.invalid");
        let look_up = async |_: &str, _| match begun.replace(begun.get() + 1) {
            0 => Ok(vec![address]),
            _ => std::future::pending().await,
        };
        let heard = told(&brokers, look_up, |heard| heard.len() == 5).await;
        assert!(heard.iter().all(|told| told.up), "{heard:?}");
        assert_eq!(begun.get(), 2);
        assert!(brokers.any_up() && !brokers.known_away() && brokers.has_room());
    }

    #[tokio::test]
    async fn a_broker_whose_name_is_not_known_is_down_and_tells_why() {
        let unknown = brokers("mqtt://broker.invalid");
        assert!(!unknown.known_away(), "nobody has asked yet");
        let heard = told(
            &unknown,
            async |_, _| std::future::pending().await,
            |_| true,
        )
        .await;
        assert!(heard[0].why.contains("still being looked up"), "{heard:?}");
        let fault = async |_: &str, _| Err(io::Error::other("no such name"));
        let heard = told(&unknown, fault, |heard| heard.len() == 2).await;
        let news: Vec<_> = heard.iter().map(|told| told.news).collect();
        assert_eq!(news, [Some(false), None], "told as news once");
        assert!(
            heard
                .iter()
                .all(|told| !told.up && told.why == "no such name")
        );
        assert!(unknown.known_away());
    }

    /// A headless service: its records change, and a look-up that fails changes nothing.
    #[tokio::test]
    async fn connections_go_where_the_name_leads_now() {
        let (first, second) = (
            TcpListener::bind("127.0.0.1:0").await.expect("a port"),
            TcpListener::bind("127.0.0.1:0").await.expect("a port"),
        );
        let at = |one: &TcpListener| one.local_addr().expect("bound");
        let brokers = brokers("mqtt://brokers.example");
        let step = Cell::new(0);
        let look_up = async |_: &str, _| match step.get() {
            0 => Ok(vec![at(&first)]),
            1 => Ok(vec![at(&first), at(&second)]),
            2 => Err(io::Error::other("the name server is away")),
            _ => Ok(vec![at(&second)]),
        };
        let leads_to = || {
            let its = brokers.endpoints.of(0);
            its.iter().filter_map(|one| one.port()).collect::<Vec<_>>()
        };
        let up =
            |told: &Told, one: &TcpListener| told.up && told.why.starts_with(&at(one).to_string());
        told(&brokers, &look_up, |heard| {
            heard.iter().any(|told| up(told, &first))
        })
        .await;
        assert_eq!(leads_to(), [at(&first).port()]);
        let old = brokers.endpoints.of(0).remove(0);
        let open = old.clone().take();

        step.set(1);
        told(&brokers, &look_up, |heard| {
            heard.iter().any(|told| up(told, &second))
        })
        .await;
        assert_eq!(leads_to().len(), 2);
        let new = brokers
            .endpoints
            .of(0)
            .into_iter()
            .find(|one| !Arc::ptr_eq(one, &old));
        assert!(
            new.expect("two").standing.share() < 256,
            "it begins with little"
        );

        step.set(2);
        told(&brokers, &look_up, |heard| heard.len() >= 6).await;
        assert_eq!(leads_to().len(), 2, "the old ones are kept");

        step.set(3);
        told(&brokers, &look_up, |_| leads_to().len() == 1).await;
        assert_eq!(leads_to(), [at(&second).port()]);
        assert!(old.has_left() && old.open() == 1, "what is open stays");
        drop(open);
    }

    /// One that is down is asked more often: devices are turned away meanwhile.
    #[tokio::test(start_paused = true)]
    async fn who_is_down_is_asked_each_half_second() {
        let brokers = brokers("unix:///nowhere/broker.sock");
        let heard = RefCell::new(Vec::new());
        let tell = |_: Told| heard.borrow_mut().push(Instant::now());
        let every = Duration::from_secs(100);
        let look_up = async |_: &str, _| Err(io::Error::other("nothing to look up"));
        let three = async {
            while heard.borrow().len() < 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = watch_one(&brokers, 0, every, &look_up, &tell) => {}
            () = three => {}
        }
        let heard = heard.borrow();
        assert!(heard[2] - heard[0] <= 2 * WHILE_DOWN + Duration::from_millis(10));
    }

    /// Three devices in a row that found nobody: it is asked at once, and not only each interval.
    #[tokio::test(start_paused = true)]
    async fn what_devices_find_is_looked_into_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("broker.sock");
        let broker = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let brokers = brokers(&format!("unix://{}", path.display()));
        let endpoint = brokers.endpoints.of(0).remove(0);
        let heard = RefCell::new(Vec::new());
        let tell = |told: Told| heard.borrow_mut().push((told.up, Instant::now()));
        let every = Duration::from_secs(100);
        let look_up = async |_: &str, _| Err(io::Error::other("nothing to look up"));
        let devices = async {
            while heard.borrow().is_empty() {
                tokio::task::yield_now().await;
            }
            drop(broker);
            tokio::time::sleep(Duration::from_secs(50)).await;
            for _ in 0..3 {
                endpoint.standing.refused(Instant::now());
            }
            while heard.borrow().len() < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = watch_one(&brokers, 0, every, &look_up, &tell) => {}
            () = devices => {}
        }
        let [first, second] = heard.borrow()[..] else {
            panic!("two")
        };
        assert_eq!((first.0, second.0), (true, false));
        assert!(second.1 - first.1 < Duration::from_secs(51));
        assert!(brokers.known_away());
    }
}
