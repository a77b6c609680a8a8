//! A gate at work: its drain and its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use crate::broker;
use crate::observe::ready::Ready;

use super::Gate;

/// How a gate came to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Every connection ended between packets.
    Drained,
    /// Bytes were lost at the end of the window, or because the gate was told to end at once.
    Cut,
}

/// A gate at work.
pub struct Running {
    pub(super) gate: Arc<Gate>,
    pub(super) ready: Arc<Ready>,
    pub(super) health: Duration,
    pub(super) addresses: Vec<(Arc<str>, SocketAddr)>,
    pub(super) threads: Vec<JoinHandle<()>>,
    /// Closed when the last worker ends.
    pub(super) ended: watch::Sender<()>,
    pub(super) cut: watch::Sender<bool>,
}

impl Running {
    /// Where it listens, with the ports that were taken for port 0: listener name and address.
    pub fn addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.addresses
    }

    /// Asks the brokers whether they answer, for as long as it is polled; tells metrics, log and `/readyz`.
    pub async fn watch_brokers(&self) {
        let gate = &self.gate;
        broker::health::watch(&gate.brokers, self.health, |place, up, news, why| {
            gate.metrics.broker(place).up(up);
            let broker = &gate.brokers.all()[place].label;
            if news && up {
                tracing::info!(event = "broker_up", broker = %broker, "{why}");
            } else if news {
                tracing::warn!(event = "broker_down", broker = %broker, "{why}");
            }
            self.ready
                .set_broker_up(gate.brokers.all().iter().any(broker::dial::Broker::is_up));
        })
        .await;
    }

    /// Begins the drain: not ready, no more accepting, open connections end one after the other.
    pub fn drain(&self) {
        self.ready.set_draining();
        self.gate.draining.send_replace(true);
    }

    /// Ends every connection at once.
    pub fn cut(&self) {
        self.drain();
        self.cut.send_replace(true);
    }

    /// Waits until the last worker has ended, which only a drain brings about.
    pub async fn ended(&self) {
        self.ended.closed().await;
    }

    /// Waits for the workers' threads, blocking; tells how the drain went.
    pub fn join(self) -> Outcome {
        for thread in self.threads {
            if thread.join().is_err() {
                self.gate.note_loss();
            }
        }
        if self.gate.lost.load(Ordering::Relaxed) {
            Outcome::Cut
        } else {
            Outcome::Drained
        }
    }
}
