//! Look-ups, changes, readings and answers in any order: what was told is never undone.

use std::collections::HashMap;

use proptest::prelude::*;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::Instant;

use super::super::desk::{Desk, Question};
use super::super::fake::{device, pinned, record};
use super::super::thread::Request;
use super::super::{Answered, DEADLINE, Directory, Found, Lane};
use super::{GRACE, MEMORY, Short, by_pin, named, pin, short, version};
use crate::registry::Change;
use crate::rules::record::Record;

/// So many devices; each of them may have the pin of its number.
const DEVICES: u8 = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The owner changes it: removes it, or gives it another version, with its pin or without.
    Change(u8, Option<bool>),
    /// The changes so far are read and told.
    Read,
    /// They are read as "everything".
    ReadEverything,
    /// Somebody looks it up, by name or by pin.
    LookUp(u8, bool),
    /// It calls with what its record lacks, as far as memory goes.
    LookUpAnew(u8),
    /// The store makes its answer to one of the questions that it has.
    Answer(usize),
    /// One of the answers arrives.
    Arrive(usize),
    /// A page of all devices is asked for and made.
    Page,
    /// It arrives.
    PageArrives,
    /// The store goes away, and comes back at once.
    GiveUp,
}

fn step() -> impl Strategy<Value = Step> {
    let one = 0..DEVICES;
    prop_oneof![
        3 => (one.clone(), any::<Option<bool>>()).prop_map(|(n, how)| Step::Change(n, how)),
        3 => Just(Step::Read),
        1 => Just(Step::ReadEverything),
        6 => (one.clone(), any::<bool>()).prop_map(|(n, by_pin)| Step::LookUp(n, by_pin)),
        3 => one.prop_map(Step::LookUpAnew),
        4 => any::<usize>().prop_map(Step::Answer),
        4 => any::<usize>().prop_map(Step::Arrive),
        2 => Just(Step::Page),
        2 => Just(Step::PageArrives),
        1 => Just(Step::GiveUp),
    ]
}

/// The store, and what everybody saw.
struct Scene<'a> {
    desk: Desk<'a>,
    directory: &'a Directory,
    /// Each device's records, oldest first; the place is the number of changes.
    history: HashMap<u8, Vec<(usize, Option<Record>)>>,
    changes: Vec<u8>,
    told: usize,
    asked: Vec<Question>,
    answered: Vec<(Question, Option<Record>)>,
    page: Option<Vec<Record>>,
    waiting: Vec<Waiting>,
}

/// Somebody who asked.
struct Waiting {
    number: u8,
    pinned: bool,
    /// How many changes had been told then.
    told: usize,
    /// When, and how many changes there were then, if all of these are to count.
    anew: Option<(Instant, usize)>,
    answer: oneshot::Receiver<Answered>,
}

impl Scene<'_> {
    fn now(&self, number: u8) -> Option<Record> {
        let history = self.history.get(&number)?;
        history.last().and_then(|(_, record)| record.clone())
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Change(number, how) => self.change(number, how),
            Step::Read => self.read(false),
            Step::ReadEverything => self.read(true),
            Step::LookUp(number, by_pin) => self.look_up(number, by_pin),
            Step::LookUpAnew(number) => self.look_up_anew(number),
            Step::Answer(which) => self.answer(which),
            Step::Arrive(which) => self.arrive(which),
            Step::Page => self.page(),
            Step::PageArrives => self.page_arrives(),
            Step::GiveUp => self.desk.give_up(&"away".into()),
        }
        self.check();
    }

    fn change(&mut self, number: u8, how: Option<bool>) {
        self.changes.push(number);
        let version = self.changes.len() as u64;
        let made = how.map(|has_pin| {
            if has_pin {
                pinned(number, version, pin(number))
            } else {
                record(number, version)
            }
        });
        let history = self.history.entry(number).or_default();
        history.push((self.changes.len(), made));
    }

    fn read(&mut self, everything: bool) {
        let news = &self.changes[self.told..];
        let news: Vec<_> = if everything {
            vec![Change::Everything]
        } else {
            news.iter().map(|n| Change::Device(device(n))).collect()
        };
        self.desk.forget(&news);
        self.told = self.changes.len();
    }

    /// As [`Directory::look_up`] does: memory first.
    fn look_up(&mut self, number: u8, pinned: bool) {
        let whom = if pinned {
            by_pin(number)
        } else {
            named(number)
        };
        if let Some(found) = self.directory.recall(&whom) {
            self.judge(number, pinned, self.told, &found);
            return;
        }
        let (reply, answer) = oneshot::channel();
        self.waiting.push(Waiting {
            number,
            pinned,
            told: self.told,
            anew: None,
            answer,
        });
        let question = self.desk.take(Request {
            lane: Lane::Vouched,
            whom,
            since: None,
            deadline: Instant::now() + DEADLINE,
            reply,
        });
        self.asked.extend(question);
    }

    /// In the same lane, so that it joins the questions of others.
    fn look_up_anew(&mut self, number: u8) {
        let since = Instant::now();
        let (reply, answer) = oneshot::channel();
        self.waiting.push(Waiting {
            number,
            pinned: false,
            told: self.told,
            anew: Some((since, self.changes.len())),
            answer,
        });
        let question = self.desk.take(Request {
            lane: Lane::Vouched,
            whom: named(number),
            since: Some(since),
            deadline: since + DEADLINE,
            reply,
        });
        self.asked.extend(question);
    }

    fn answer(&mut self, which: usize) {
        if self.asked.is_empty() {
            return;
        }
        let question = self.asked.swap_remove(which % self.asked.len());
        let mut all = (0..DEVICES).filter_map(|number| self.now(number));
        let found = all.find(|record| question.whom.is(record));
        self.answered.push((question, found));
    }

    fn arrive(&mut self, which: usize) {
        if self.answered.is_empty() {
            return;
        }
        let (question, found) = self.answered.swap_remove(which % self.answered.len());
        let again = self.desk.settle(question, Ok(found));
        self.asked.extend(again);
    }

    fn page(&mut self) {
        self.desk.begin_page();
        self.page = Some((0..DEVICES).filter_map(|number| self.now(number)).collect());
    }

    fn page_arrives(&mut self) {
        if let Some(page) = self.page.take() {
            self.desk.take_page(page);
        }
    }

    /// Whoever was answered got something at least as new as all that had been told when it asked; and who asked anew, by a question
    /// that was not there before, as all that had been done.
    fn check(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain_mut(|one| match one.answer.try_recv() {
            Ok(Answered { found, asked }) => {
                let done = one.anew.filter(|(since, _)| asked >= *since);
                let told = done.map_or(one.told, |(_, changes)| changes);
                self.judge(one.number, one.pinned, told, &found);
                false
            }
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Closed) => panic!("nobody is left without an answer"),
        });
        self.waiting = waiting;
    }

    fn judge(&self, number: u8, pinned: bool, told: usize, found: &Found) {
        let visible = |record: &Option<Record>| match record {
            Some(one) if !pinned || by_pin(number).is(one) => Short::Version(version(one)),
            _ => Short::Nobody,
        };
        let found = short(found);
        if found == Short::NotNow {
            return;
        }
        let none = Vec::new();
        let history = self.history.get(&number).unwrap_or(&none);
        let old = history.iter().filter(|(place, _)| *place <= told).count();
        let mut allowed: Vec<_> = history[old.saturating_sub(1)..]
            .iter()
            .map(|(_, record)| visible(record))
            .collect();
        if old == 0 {
            allowed.push(Short::Nobody);
        }
        assert!(
            allowed.contains(&found),
            "device {number}, pinned {pinned}, told {told}: {found:?} of {allowed:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nobody_is_given_what_was_before_a_change_that_was_told(steps in prop::collection::vec(step(), 1..80)) {
        let (_alive, alive) = tokio::sync::watch::channel(());
        let (directory, _mailbox) = Directory::new(MEMORY, GRACE, alive);
        directory.shared.standing.note_read(Instant::now());
        directory.shared.standing.back();
        let mut scene = Scene {
            desk: Desk::new(&directory.shared),
            directory: &directory,
            history: HashMap::new(),
            changes: Vec::new(),
            told: 0,
            asked: Vec::new(),
            answered: Vec::new(),
            page: None,
            waiting: Vec::new(),
        };
        for step in steps {
            scene.step(step);
        }
        // And nobody waits for ever.
        scene.read(false);
        while !(scene.asked.is_empty() && scene.answered.is_empty()) {
            scene.step(Step::Answer(0));
            scene.step(Step::Arrive(0));
        }
        prop_assert!(scene.waiting.is_empty());
        for number in 0..DEVICES {
            for whom in [named(number), by_pin(number)] {
                if let Some(Found::Known(record)) = directory.recall(&whom) {
                    let now = scene.now(number).filter(|record| whom.is(record));
                    prop_assert_eq!(Some(record.as_ref()), now.as_ref());
                }
            }
        }
    }
}
