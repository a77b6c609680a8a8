//! When attempts are due, in open loop: a pure function of their number.

use std::time::Duration;

use super::settings::{Phase, Rate, Until};

/// A schedule: attempt `n` is due when the integral of the rate reaches `n`. It has one phase or several, each of which
/// begins when the one before is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule(Vec<Piece>);

/// One phase of a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Piece {
    begin: Duration,
    /// How many attempts are due before it.
    before: u64,
    from: f64,
    /// How much the rate grows each second; 0.0: it is constant.
    growth: f64,
    count: u64,
}

impl Schedule {
    /// Attempts at `rate`, from the moment 0 on. A ramp lasts as long as the run.
    pub fn new(rate: Rate, until: Until) -> Self {
        Self(vec![Piece::new(rate, until)])
    }

    /// One phase after the other, from the moment 0 on.
    pub fn of(phases: &[Phase]) -> Self {
        let mut pieces: Vec<Piece> = Vec::new();
        let (mut begin, mut before) = (Duration::ZERO, 0);
        for phase in phases {
            let mut piece = Piece::new(phase.rate, Until::Time(phase.time));
            (piece.begin, piece.before) = (begin, before);
            begin += phase.time;
            before += piece.count;
            pieces.push(piece);
        }
        Self(pieces)
    }

    /// When attempt `n` (from 0) is due; `None`: there are not so many.
    pub fn at(&self, n: u64) -> Option<Duration> {
        let later = self.0.partition_point(|piece| piece.before <= n);
        let piece = self.0[..later].last()?;
        Some(piece.begin + piece.at(n - piece.before)?)
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "attempts of one run are far below 2^52, and none is negative"
)]
impl Piece {
    fn new(rate: Rate, until: Until) -> Self {
        let mean = f64::midpoint(rate.from, rate.to);
        let (seconds, count) = match until {
            Until::Time(time) => {
                let seconds = time.as_secs_f64();
                // What is due before the end, the one at 0 included; the quotient of a round rate may be a hair off.
                (seconds, (mean * seconds - 1e-6).ceil().max(0.0) as u64)
            }
            Until::Count(count) => (count as f64 / mean, count),
        };
        let growth = if seconds > 0.0 {
            (rate.to - rate.from) / seconds
        } else {
            0.0
        };
        Self {
            begin: Duration::ZERO,
            before: 0,
            from: rate.from,
            growth,
            count,
        }
    }

    fn at(&self, n: u64) -> Option<Duration> {
        if n >= self.count {
            return None;
        }
        if n == 0 {
            return Some(Duration::ZERO);
        }
        // from·t + growth·t²/2 = n, in the form that also holds for growth 0.
        let n = n as f64;
        let root = (self.from * self.from + 2.0 * self.growth * n).max(0.0);
        Some(Duration::from_secs_f64(2.0 * n / (self.from + root.sqrt())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(schedule: &Schedule) -> Vec<Duration> {
        (0..).map_while(|n| schedule.at(n)).collect()
    }

    #[test]
    fn a_constant_rate_is_even() {
        let rate = Rate { from: 4.0, to: 4.0 };
        let due = all(&Schedule::new(rate, Until::Time(Duration::from_secs(2))));
        let even: Vec<_> = (0..8).map(|n| Duration::from_millis(250 * n)).collect();
        assert_eq!(due, even);
        assert_eq!(all(&Schedule::new(rate, Until::Count(8))), even);
    }

    #[test]
    fn a_ramp_from_nothing_has_half_of_its_attempts_in_the_last_three_tenths() {
        let rate = Rate {
            from: 0.0,
            to: 100.0,
        };
        let due = all(&Schedule::new(rate, Until::Time(Duration::from_secs(10))));
        assert_eq!(due.len(), 500);
        let half = due.partition_point(|at| *at < Duration::from_millis(7071));
        assert!((249..=251).contains(&half), "{half}");
    }

    #[test]
    fn phases_follow_each_other_and_a_pause_has_no_attempts() {
        let phase = |rate, seconds| Phase {
            rate: Rate {
                from: rate,
                to: rate,
            },
            time: Duration::from_secs(seconds),
        };
        let due = all(&Schedule::of(&[
            phase(2.0, 1),
            phase(0.0, 2),
            phase(4.0, 1),
        ]));
        let millis = [0, 500, 3000, 3250, 3500, 3750].map(Duration::from_millis);
        assert_eq!(due, millis);
    }

    #[test]
    fn no_time_has_no_attempts() {
        let rate = Rate { from: 9.0, to: 1.0 };
        assert!(all(&Schedule::new(rate, Until::Time(Duration::ZERO))).is_empty());
        assert!(all(&Schedule::new(rate, Until::Count(0))).is_empty());
    }

    proptest! {
        #[test]
        fn attempts_are_in_order_and_as_many_as_the_integral(
            from in 0.0..2000.0f64,
            to in 0.1..2000.0f64,
            millis in 1..5000u64,
            part in 0.0..1.0f64,
        ) {
            let time = Duration::from_millis(millis);
            let due = all(&Schedule::new(Rate { from, to }, Until::Time(time)));
            prop_assert!(due.is_sorted());
            prop_assert!(due.iter().all(|at| *at <= time + Duration::from_micros(1)));
            let t = part * time.as_secs_f64();
            let integral = from * t + (to - from) / time.as_secs_f64() * t * t / 2.0;
            let seen = due.partition_point(|at| at.as_secs_f64() < t);
            let seen = f64::from(u32::try_from(seen).expect("some thousands"));
            prop_assert!((seen - integral).abs() <= 1.001, "{seen} by then, not {integral}");
        }

        #[test]
        fn a_count_is_kept_whatever_the_ramp(from in 0.0..500.0f64, to in 0.1..500.0f64, count in 0..2000u64) {
            let due = all(&Schedule::new(Rate { from, to }, Until::Count(count)));
            prop_assert_eq!(due.len() as u64, count);
            prop_assert!(due.is_sorted());
        }
    }
}
