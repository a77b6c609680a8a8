//! Whether the brokers answer: asked beside the path, told to the dial, the metrics and `/readyz`.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::dial::Brokers;

/// Asks every broker each `every` whether it takes a TCP connection, for as long as it is polled. `told` hears each
/// answer: which broker, whether it is up, whether that is news, and why not.
///
/// Names are looked up again each time. All brokers are asked at once, so one that is silent does not hide another.
pub async fn watch(brokers: &Brokers, every: Duration, told: impl Fn(usize, bool, bool, &str)) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut first = true;
    loop {
        ticks.tick().await;
        let probes = brokers.all().iter().map(|broker| async move {
            let asked = timeout(every, async {
                let looked_up = broker.resolve().await;
                broker
                    .connect()
                    .await
                    .map_err(|fault| looked_up.err().unwrap_or(fault))
            });
            match asked.await {
                Ok(Ok(_)) => None,
                Ok(Err(fault)) => Some(fault.to_string()),
                Err(_) => Some(format!("no answer within {every:?}")),
            }
        });
        for (place, fault) in join_all(probes).await.into_iter().enumerate() {
            let up = fault.is_none();
            let news = brokers.all()[place].set_up(up) || first;
            told(place, up, news, fault.as_deref().unwrap_or("it answers"));
        }
        first = false;
    }
}
