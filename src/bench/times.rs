//! What a run times, and what is told of the times.

use hdrhistogram::Histogram;

/// Every time, in the order of a connection's life: its word, and what it runs from or to.
///
/// Where no beginning is named it is that of the attempt: by schedule, the moment that it was due.
/// `docs/benchmarking.md` has the same words in the same order.
pub const TIMES: [(&str, &str); 8] = [
    (
        "handshake",
        "until the device's part of the handshake was over",
    ),
    (
        "verdict",
        "until the target had judged the device's certificate (TLS 1.3)",
    ),
    ("connack", "until the CONNACK"),
    (
        "got_in",
        "from when a device came until one of its tries succeeded (with --give-up or --retry)",
    ),
    ("puback", "from a message until its PUBACK"),
    ("round_trip", "from a message until it came back"),
    (
        "ping",
        "from a PINGREQ of a connection that was held until its answer",
    ),
    (
        "waited",
        "how long those waited in vain that gave up or timed out",
    ),
];

/// What a time of this word is; empty for a word that is not in [`TIMES`].
pub fn meaning(name: &str) -> &'static str {
    let known = TIMES.iter().find(|(word, _)| *word == name);
    known.map_or("", |(_, meaning)| meaning)
}

/// A percentile, and of how many times it is told.
pub(super) struct Percentile {
    pub(super) name: &'static str,
    quantile: f64,
    /// Of fewer it would be the longest one by another name: of 50 times none is the 99th of a hundred.
    pub(super) least: u64,
}

pub(super) const P50: Percentile = Percentile {
    name: "p50",
    quantile: 0.5,
    least: 1,
};
pub(super) const P90: Percentile = Percentile {
    name: "p90",
    quantile: 0.9,
    least: 10,
};
pub(super) const P99: Percentile = Percentile {
    name: "p99",
    quantile: 0.99,
    least: 100,
};
pub(super) const P999: Percentile = Percentile {
    name: "p99.9",
    quantile: 0.999,
    least: 1000,
};

/// What is told of a percentile of too few times.
pub(super) const TOO_FEW: &str = "too few";

impl Percentile {
    /// In microseconds; `None`: there are too few times to know.
    pub(super) fn of(&self, micros: &Histogram<u64>) -> Option<u64> {
        (micros.len() >= self.least).then(|| micros.value_at_quantile(self.quantile))
    }
}

/// The names of what [`spread`] gives.
pub(super) const NAMES: [&str; 6] = ["min", P50.name, P90.name, P99.name, P999.name, "max"];

/// Least, percentiles and most, in microseconds, each `None` where there are too few times to know; `None` where nothing
/// was timed.
pub(super) fn spread(micros: &Histogram<u64>) -> Option<[Option<u64>; 6]> {
    let [p50, p90, p99, p999] = [P50, P90, P99, P999].map(|percentile| percentile.of(micros));
    let (min, max) = (Some(micros.min()), longest(micros));
    (!micros.is_empty()).then_some([min, p50, p90, p99, p999, max])
}

/// In microseconds; `None` where nothing was timed.
pub(super) fn longest(micros: &Histogram<u64>) -> Option<u64> {
    (!micros.is_empty()).then(|| micros.max())
}

/// One figure for the slow ones, with its name: the 99th percentile, or the longest where there are too few times for
/// that; `None` where nothing was timed.
pub(super) fn slow(p99: Option<u64>, max: Option<u64>) -> Option<(&'static str, u64)> {
    let known = p99.map(|p99| (P99.name, p99));
    known.or_else(|| max.map(|max| ("max", max)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::samples::latency;

    #[test]
    fn a_percentile_is_told_of_times_enough() {
        let known = |times: u64| {
            let spread = spread(&latency("connack", 1..=times).micros);
            spread.map(|spread| spread.map(|figure| figure.is_some()))
        };
        assert_eq!(known(0), None);
        assert_eq!(known(1), Some([true, true, false, false, false, true]));
        assert_eq!(known(99), Some([true, true, true, false, false, true]));
        assert_eq!(known(100), Some([true, true, true, true, false, true]));
        assert_eq!(known(1000), Some([true; 6]));
    }

    #[test]
    fn of_few_times_the_longest_stands_for_the_slow_ones() {
        assert_eq!(slow(Some(7), Some(9)), Some(("p99", 7)));
        assert_eq!(slow(None, Some(9)), Some(("max", 9)));
        assert_eq!(slow(None, None), None);
    }

    #[test]
    fn every_time_has_a_meaning() {
        assert_eq!(meaning("connack"), "until the CONNACK");
        assert_eq!(meaning("connacks"), "");
    }
}
