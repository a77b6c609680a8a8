//! The sink's thread, where it is one of the harness: a broker at its limit is the harness's limit too.

use std::time::{Duration, Instant};

use super::{process, sink};

/// Shorter than that, the clock's own grain is too much of it.
const LEAST: Duration = Duration::from_millis(500);

/// What the sink's thread uses; nothing where there is none.
pub(super) struct Watch {
    thread: Option<u32>,
    /// When it was last looked at, and the CPU time that it had by then.
    since: (Instant, Duration),
    /// Part of a core that it used at most: 0.0 to 1.0.
    busiest: f64,
    looks: u32,
}

impl Watch {
    /// Begins now.
    pub(super) fn begin() -> Self {
        let thread = sink::thread();
        Self {
            thread,
            since: (Instant::now(), cpu(thread)),
            busiest: 0.0,
            looks: 0,
        }
    }

    /// A second is over.
    pub(super) fn second(&mut self) {
        if self.since.0.elapsed() >= LEAST {
            self.look();
        }
    }

    /// Part of a core that it used in the busiest second; of a run that was shorter, in all of it.
    pub(super) fn end(mut self) -> f64 {
        if self.looks == 0 {
            self.look();
        }
        self.busiest
    }

    fn look(&mut self) {
        let (then, spent) = self.since;
        self.since = (Instant::now(), cpu(self.thread));
        self.looks += 1;
        let wall = self.since.0.saturating_duration_since(then).as_secs_f64();
        let cpu = self.since.1.saturating_sub(spent).as_secs_f64();
        if wall > 0.0 {
            self.busiest = self.busiest.max((cpu / wall).min(1.0));
        }
    }
}

fn cpu(thread: Option<u32>) -> Duration {
    thread.and_then(process::thread).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_that_works_is_seen_even_in_a_short_run() {
        use std::io::{Read as _, Write as _};
        assert!(Watch::begin().end() <= 0.0, "there is none");
        let address = sink::start(([127, 0, 0, 1], 0).into()).expect("a port");
        let watch = Watch::begin();
        let mut device = std::net::TcpStream::connect(address).expect("it listens");
        for _ in 0..200 {
            device.write_all(&[0xc0, 0]).expect("a ping");
            device.read_exact(&mut [0; 2]).expect("its answer");
        }
        assert!(watch.end() > 0.0);
    }
}
