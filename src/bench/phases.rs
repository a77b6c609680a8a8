//! A run in phases: who came in each, who got in, and how that changed in between.

use std::collections::BTreeMap;
use std::time::Duration;

use super::report::{Arrivals, PhaseReport};
use super::settings::Phase;
use super::tally::{add, add_all, histogram};

/// How finely arrivals are told: a quarter of a second.
pub(super) const STEP: Duration = Duration::from_millis(250);

/// When each phase begins and ends.
#[derive(Clone, Debug, Default)]
pub(super) struct Course(Vec<(Phase, Duration)>);

impl Course {
    /// Of phases that follow each other, from the moment 0 on.
    pub(super) fn new(phases: &[Phase]) -> Self {
        let mut begin = Duration::ZERO;
        let begun = phases.iter().map(|phase| {
            let at = begin;
            begin += phase.time;
            (*phase, at)
        });
        Self(begun.collect())
    }

    /// Whether there are none: the run is no schedule in time.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The phase of a moment; what is later than all is the last one's. There is one at least.
    fn of(&self, at: Duration) -> usize {
        let begun = self.0.partition_point(|(_, begin)| *begin <= at);
        begun.saturating_sub(1)
    }

    /// When whoever came at that moment stops trying: at the end of the phase, or of the pauses that follow it.
    /// `None`: there are no phases.
    pub(super) fn end(&self, at: Duration) -> Option<Duration> {
        let followed = self.0.get(self.of(at) + 1..)?;
        let next = followed.iter().find(|(phase, _)| phase.rate.to > 0.0);
        let all = self.0.last().map(|(phase, begin)| *begin + phase.time);
        next.map(|(_, begin)| *begin).or(all)
    }

    /// What became of it all, as the report has it.
    pub(super) fn told(&self, tries: &Tries) -> Vec<PhaseReport> {
        let nothing = Counts::default();
        let phases = self.0.iter().enumerate();
        let told = phases.map(|(n, (phase, begin))| {
            let counts = tries.phases.get(n).unwrap_or(&nothing);
            PhaseReport {
                begin: *begin,
                time: phase.time,
                rate: phase.rate,
                begun: counts.begun,
                succeeded: counts.succeeded,
                errors: counts.errors.clone(),
                micros: counts.micros.clone(),
            }
        });
        told.collect()
    }
}

/// What became of tries, by the moment at which each was due.
#[derive(Default)]
pub(super) struct Tries {
    phases: Vec<Counts>,
    /// Begun and succeeded, of each [`STEP`] of the run.
    steps: Vec<(u64, u64)>,
}

struct Counts {
    begun: u64,
    succeeded: u64,
    errors: BTreeMap<&'static str, u64>,
    micros: hdrhistogram::Histogram<u64>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            begun: 0,
            succeeded: 0,
            errors: BTreeMap::new(),
            micros: histogram(),
        }
    }
}

impl Tries {
    /// A try that was due at that moment.
    pub(super) fn begin(&mut self, course: &Course, at: Duration) {
        self.counts(course, at).begun += 1;
        self.step(at).0 += 1;
    }

    /// It got in, in so many microseconds.
    pub(super) fn succeed(&mut self, course: &Course, at: Duration, micros: u64) {
        let counts = self.counts(course, at);
        counts.succeeded += 1;
        counts.micros.saturating_record(micros);
        self.step(at).1 += 1;
    }

    /// It came to nothing.
    pub(super) fn fail(&mut self, course: &Course, at: Duration, word: &'static str) {
        *self.counts(course, at).errors.entry(word).or_default() += 1;
    }

    /// Adds what another thread counted.
    pub(super) fn merge(&mut self, other: Self) {
        grow(&mut self.phases, other.phases.len());
        for (own, other) in self.phases.iter_mut().zip(other.phases) {
            own.begun += other.begun;
            own.succeeded += other.succeeded;
            add_all(&mut own.errors, &other.errors);
            add(&mut own.micros, &other.micros);
        }
        grow(&mut self.steps, other.steps.len());
        for (own, other) in self.steps.iter_mut().zip(other.steps) {
            own.0 += other.0;
            own.1 += other.1;
        }
    }

    /// Who came when, as the report has it; steps without an arrival too.
    pub(super) fn arrivals(&self) -> Vec<Arrivals> {
        let steps = (0u32..).zip(&self.steps);
        let told = steps.map(|(n, (begun, succeeded))| Arrivals {
            at: STEP * n,
            begun: *begun,
            succeeded: *succeeded,
        });
        told.collect()
    }

    fn counts(&mut self, course: &Course, at: Duration) -> &mut Counts {
        let n = course.of(at);
        grow(&mut self.phases, n + 1);
        &mut self.phases[n]
    }

    fn step(&mut self, at: Duration) -> &mut (u64, u64) {
        let n = usize::try_from(at.as_millis() / STEP.as_millis()).unwrap_or_default();
        grow(&mut self.steps, n + 1);
        &mut self.steps[n]
    }
}

fn grow<T: Default>(list: &mut Vec<T>, to: usize) {
    if list.len() < to {
        list.resize_with(to, T::default);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::settings::Rate;

    fn course(phases: &[(f64, u64)]) -> Course {
        let phases = phases.iter().map(|(rate, seconds)| Phase {
            rate: Rate {
                from: *rate,
                to: *rate,
            },
            time: Duration::from_secs(*seconds),
        });
        Course::new(&phases.collect::<Vec<_>>())
    }

    #[test]
    fn who_came_stops_at_the_end_of_the_phase_and_of_the_pause_behind_it() {
        let course = course(&[(9.0, 3), (0.0, 12), (1.0, 5)]);
        let end = |millis| course.end(Duration::from_millis(millis));
        assert_eq!(end(0), Some(Duration::from_secs(15)));
        assert_eq!(end(2999), Some(Duration::from_secs(15)));
        assert_eq!(end(15_000), Some(Duration::from_secs(20)));
        assert_eq!(Course::default().end(Duration::ZERO), None);
    }

    #[test]
    fn tries_count_where_they_were_due_whenever_they_ended() {
        let course = course(&[(9.0, 1), (1.0, 1)]);
        let mut tries = Tries::default();
        let (early, late) = (Duration::from_millis(900), Duration::from_millis(1300));
        tries.begin(&course, early);
        tries.begin(&course, late);
        tries.succeed(&course, early, 1_500_000);
        tries.fail(&course, late, "gave_up");
        let mut all = Tries::default();
        all.merge(tries);

        let told = course.told(&all);
        let counts: Vec<_> = told.iter().map(|of| (of.begun, of.succeeded)).collect();
        assert_eq!(counts, [(1, 1), (1, 0)]);
        assert_eq!(told[1].errors["gave_up"], 1);
        let arrivals = all.arrivals();
        let steps: Vec<_> = arrivals.iter().map(|of| (of.begun, of.succeeded)).collect();
        assert_eq!(steps, [(0, 0), (0, 0), (0, 0), (1, 1), (0, 0), (1, 0)]);
        assert_eq!(arrivals[3].at, Duration::from_millis(750));
    }
}
