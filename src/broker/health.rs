//! Whether the brokers answer: asked beside the path, told to the dial, the metrics and `/readyz`.

use std::io;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::dial::{Broker, Brokers, NotReady, is_out_of_descriptors};

/// Asks every broker each `every` whether it takes a connection, and finishes TLS where it is `mqtts://`, for as long as it is polled. `told` hears each
/// answer: which broker, whether it is up, whether that is news, and why not.
///
/// Each is asked by itself, so one that is silent does not hide another. Names are looked up again each time; where that
/// takes long, the addresses known before are asked meanwhile (threats.md V4).
pub async fn watch(brokers: &Brokers, every: Duration, told: impl Fn(usize, bool, bool, &str)) {
    let told = &told;
    let each = brokers.all().iter().enumerate().map(|(place, broker)| {
        let tell = move |up, news, why: &str| told(place, up, news, why);
        watch_one(broker, every, || broker.resolve(), tell)
    });
    join_all(each).await;
}

async fn watch_one<L: Future<Output = io::Result<()>>>(
    broker: &Broker,
    every: Duration,
    look_up: impl Fn() -> L,
    told: impl Fn(bool, bool, &str),
) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut first = true;
    let mut looking = None;
    loop {
        ticks.tick().await;
        // A look-up that hangs keeps a thread until it ends: there is never a second one beside it.
        let under_way = looking.get_or_insert_with(|| Box::pin(look_up()));
        let looked_up = match timeout(every / 2, under_way.as_mut()).await {
            Ok(outcome) => {
                looking = None;
                outcome
            }
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "its name is still being looked up, and no address is known",
            )),
        };
        let why_not = match timeout(every, broker.probe()).await {
            Ok(Ok(_)) => None,
            // Our trouble, not the broker's: what was known of it stays (threats.md V3).
            Ok(Err(NotReady::Socket(fault))) if is_out_of_descriptors(&fault) => continue,
            Ok(Err(NotReady::Socket(fault))) if fault.kind() == io::ErrorKind::NotFound => {
                Some(looked_up.err().unwrap_or(fault).to_string())
            }
            Ok(Err(fault)) => Some(fault.to_string()),
            Err(_) => Some(format!("no answer within {every:?}")),
        };
        let up = why_not.is_none();
        let news = broker.set_up(up) || first;
        told(up, news, why_not.as_deref().unwrap_or("it answers"));
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use tokio::net::TcpListener;

    use super::*;
    use crate::broker::Settings;

    /// What is told of a broker at `address` whose look-up is this, the first `count` times.
    async fn told<L: Future<Output = io::Result<()>>>(
        address: &str,
        count: usize,
        look_up: impl Fn() -> L,
    ) -> Vec<(bool, String)> {
        let settings = Settings {
            addresses: vec![address.parse().expect("an address")],
            tls: None,
            dial_timeout: Duration::from_secs(1),
            health_interval: Duration::from_secs(1),
            proxy_protocol: None,
        };
        let brokers = Brokers::new(&settings, None);
        let (heard, enough) = (RefCell::new(Vec::new()), tokio::sync::Notify::new());
        let tell = |up, _, why: &str| {
            heard.borrow_mut().push((up, why.to_owned()));
            if heard.borrow().len() == count {
                enough.notify_one();
            }
        };
        let every = Duration::from_millis(20);
        tokio::select! {
            () = watch_one(&brokers.all()[0], every, look_up, tell) => {}
            () = enough.notified() => {}
        }
        heard.take()
    }

    /// threats.md V4: a DNS that hangs does not make a broker that answers look dead, nor are look-ups piled up.
    #[tokio::test]
    async fn a_look_up_that_hangs_hides_no_broker_and_is_alone() {
        let broker = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = broker.local_addr().expect("bound");
        let begun = Cell::new(0);
        let look_up = || {
            begun.set(begun.get() + 1);
            std::future::pending()
        };
        let heard = told(&format!("mqtt://{address}"), 3, look_up).await;
        assert!(heard.iter().all(|(up, _)| *up), "{heard:?}");
        assert_eq!(begun.get(), 1);
    }

    #[tokio::test]
    async fn a_broker_whose_name_is_not_known_is_down_and_tells_why() {
        let heard = told("mqtt://broker.invalid", 1, std::future::pending).await;
        assert!(heard[0].1.contains("still being looked up"), "{heard:?}");
        let fault = || async { Err(io::Error::other("no such name")) };
        let heard = told("mqtt://broker.invalid", 2, fault).await;
        assert_eq!(heard[1], (false, "no such name".to_owned()));
    }
}
