use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

fn door_of(turns: usize, patience: Duration) -> Door {
    let turns = Arc::new(Semaphore::new(turns));
    Door::new(turns, Arc::new(Patience::new(patience)))
}

fn door(turns: usize) -> Door {
    door_of(turns, PATIENCE)
}

/// Takes what is left of this round.
fn take_all(door: &Door) {
    door.lock().pieces = 0;
}

fn now<F: Future>(waits: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    waits.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn where_nobody_waits_a_handshake_begins_at_once() {
    let door = door(10);
    assert!(door.try_begin(true).is_some());
    assert!(now(pin!(door.go_on())).is_ready());
    assert!(!door.is_busy());
}

#[tokio::test]
async fn in_one_round_only_so_many_pieces_are_computed() {
    let door = door(100);
    let at_once: Vec<_> = std::iter::from_fn(|| door.try_begin(true)).collect();
    assert_eq!(at_once.len(), usize::from(PIECES));
    let wait = |_| {
        let mut begin = Box::pin(door.begin(Caller::New));
        assert!(now(begin.as_mut()).is_pending());
        begin
    };
    let mut waiting: Vec<_> = (0..50).map(wait).collect();
    let mut begun = 0;
    while !waiting.is_empty() {
        door.round(&mut None, || true);
        let before = waiting.len();
        waiting.retain_mut(|begin| now(begin.as_mut()).is_pending());
        assert!(before - waiting.len() <= usize::from(PIECES));
        begun += before - waiting.len();
    }
    assert_eq!(begun, 50);
}

/// threats.md V1: capacity goes to devices that can still use it.
#[tokio::test]
async fn who_came_last_begins_first_while_devices_give_up() {
    for storm in [false, true] {
        let door = door(100);
        take_all(&door);
        let mut waiting = crowd(&door, 20);
        if storm {
            give_up(&door);
        }
        door.round(&mut None, || true);
        let begins = waiting.iter_mut().map(|one| now(one.as_mut()).is_ready());
        let begins: Vec<_> = begins.collect();
        let pieces = usize::from(PIECES);
        let those = if storm { 20 - pieces..20 } else { 0..pieces };
        assert_eq!(begins.iter().filter(|begins| **begins).count(), pieces);
        assert!(begins[those].iter().all(|begins| *begins), "{begins:?}");
    }
}

/// threats.md V2: whoever comes and leaves on purpose does not keep out who waits.
#[tokio::test]
async fn now_and_then_it_is_who_waits_longest_although_devices_give_up() {
    let door = door(1000);
    take_all(&door);
    let mut patient = crowd(&door, 2);
    let mut rounds = 0;
    while !patient.is_empty() {
        give_up(&door);
        let _newer = crowd(&door, usize::from(PIECES));
        door.round(&mut None, || true);
        patient.retain_mut(|one| now(one.as_mut()).is_pending());
        rounds += 1;
    }
    assert_eq!(rounds, 2 * OLDEST / PIECES);
}

/// Who has to make room waited for nothing, too.
#[tokio::test]
async fn a_full_queue_is_a_storm_although_nobody_gives_up() {
    let door = door(0);
    let _waiting = crowd(&door, WAITING);
    assert!(!door.lock().is_storm());
    let _one_more = crowd(&door, 1);
    assert!(door.lock().is_storm());
}

#[tokio::test]
async fn what_was_begun_is_ended_before_anything_begins() {
    let door = door(100);
    take_all(&door);
    let mut new = Box::pin(door.begin(Caller::New));
    assert!(now(new.as_mut()).is_pending());
    let mut begun: Vec<_> = (0..PIECES).map(|_| Box::pin(door.go_on())).collect();
    for piece in &mut begun {
        assert!(now(piece.as_mut()).is_pending());
    }
    door.round(&mut None, || true);
    assert!(begun.iter_mut().all(|piece| now(piece.as_mut()).is_ready()));
    assert!(now(new.as_mut()).is_pending());
    door.round(&mut None, || true);
    assert!(now(new.as_mut()).is_ready());
}

/// threats.md V1: returning devices first, and yet nobody keeps the others out.
#[tokio::test]
async fn who_resumes_begins_first_but_not_always() {
    let door = door(1000);
    take_all(&door);
    let wait = |caller| {
        let mut begin = Box::pin(door.begin(caller));
        assert!(now(begin.as_mut()).is_pending());
        begin
    };
    let mut new: Vec<_> = (0..50).map(|_| wait(Caller::New)).collect();
    let mut returning: Vec<_> = (0..50).map(|_| wait(Caller::Returning)).collect();
    let rounds = 40 / PIECES;
    for _ in 0..rounds {
        door.round(&mut None, || true);
    }
    new.retain_mut(|begin| now(begin.as_mut()).is_pending());
    returning.retain_mut(|begin| now(begin.as_mut()).is_pending());
    assert_eq!((50 - new.len(), 50 - returning.len()), (10, 30));
}

/// However many resume in a row, who comes new is not forgotten, nor does the count run over.
#[tokio::test]
async fn a_new_one_is_let_in_after_a_thousand_who_resume() {
    let door = door(2000);
    take_all(&door);
    let wait = |caller| {
        let mut begin = Box::pin(door.begin(caller));
        assert!(now(begin.as_mut()).is_pending());
        begin
    };
    for _ in 0..100 {
        let mut returning: Vec<_> = (0..10).map(|_| wait(Caller::Returning)).collect();
        while door.is_busy() {
            door.round(&mut None, || true);
        }
        returning.clear();
    }
    let mut new = wait(Caller::New);
    let _returning: Vec<_> = (0..10).map(|_| wait(Caller::Returning)).collect();
    door.round(&mut None, || true);
    assert!(now(new.as_mut()).is_ready());
}

/// threats.md V1: the queue is bounded in time.
#[tokio::test]
async fn who_has_waited_too_long_is_sent_away() {
    let door = door_of(0, Duration::ZERO);
    let mut begin = Box::pin(door.begin(Caller::New));
    assert!(now(begin.as_mut()).is_pending());
    door.round(&mut None, || true);
    assert!(matches!(now(begin.as_mut()), Poll::Ready(None)));
    assert!(!door.is_busy());
}

#[tokio::test]
async fn who_leaves_is_in_no_queue_and_takes_no_turn() {
    let door = door(1);
    take_all(&door);
    let mut left = Box::pin(door.begin(Caller::New));
    let mut piece = Box::pin(door.go_on());
    assert!(now(left.as_mut()).is_pending() && now(piece.as_mut()).is_pending());
    drop((left, piece));
    assert!(!door.is_busy());
    // One that was let in, and left before it knew.
    let mut let_in = Box::pin(door.begin(Caller::New));
    assert!(now(let_in.as_mut()).is_pending());
    door.round(&mut None, || true);
    drop(let_in);
    assert_eq!(door.turns.available_permits(), 1);
}

/// So many who wait to begin, the first first.
fn crowd(door: &Door, count: usize) -> Vec<Pin<Box<impl Future<Output = Option<Turn>>>>> {
    let wait = |_| {
        let mut begin = Box::pin(door.begin(Caller::New));
        assert!(now(begin.as_mut()).is_pending());
        begin
    };
    (0..count).map(wait).collect()
}

/// threats.md V1: bounded in count. The oldest makes room, and is told so.
#[tokio::test]
async fn who_comes_to_a_full_queue_takes_the_place_of_the_oldest() {
    let door = door(0);
    let mut waiting = crowd(&door, WAITING);
    assert!(waiting.iter_mut().all(|one| now(one.as_mut()).is_pending()));
    let _more = crowd(&door, 3);
    let sent_away: Vec<_> = waiting
        .iter_mut()
        .map(|one| now(one.as_mut()).is_ready())
        .collect();
    assert!(sent_away[..3].iter().all(|away| *away));
    assert!(!sent_away[3..].iter().any(|away| *away));
}

/// Somebody gives up waiting.
fn give_up(door: &Door) {
    drop(crowd(door, 1));
}

/// A burst is no storm: it is one when devices give up waiting.
#[tokio::test]
async fn it_is_crowded_when_many_wait_and_some_give_up() {
    let door = door(0);
    let mut waiting = crowd(&door, CROWDED);
    assert_eq!(door.try_admit(), Some(Crowd::Thin));
    give_up(&door);
    assert_eq!(door.try_admit(), None);
    waiting.truncate(THINNED);
    assert_eq!(door.try_admit(), None, "until few wait");
    drop(waiting);
    assert_eq!(door.try_admit(), Some(Crowd::Thinned));
    let _few = crowd(&door, CROWDED_AGAIN - 1);
    assert_eq!(door.try_admit(), Some(Crowd::Thinned));
    let _one_more = crowd(&door, 1);
    assert_eq!(door.try_admit(), None, "the storm is not over");
}

/// Where nobody waits long, one who leaves makes no storm.
#[tokio::test]
async fn who_leaves_a_short_line_makes_no_storm() {
    let door = door(0);
    let _few = crowd(&door, CROWDED - 1);
    give_up(&door);
    assert_eq!(door.try_admit(), Some(Crowd::Thin));
}

/// threats.md V1: what cannot be begun is not accepted, but for a few for each that begins.
#[tokio::test]
async fn of_a_crowd_few_are_accepted_for_each_that_begins() {
    let door = door(100);
    take_all(&door);
    assert_eq!(door.try_admit(), Some(Crowd::Thin));
    let _waiting = crowd(&door, WAITING);
    give_up(&door);
    let mut room = pin!(door.admit());
    assert!(now(room.as_mut()).is_pending());
    door.round(&mut None, || true);
    assert_eq!(now(room), Poll::Ready(Crowd::Thick));
    let more: Vec<_> = std::iter::from_fn(|| door.try_admit()).collect();
    let many = usize::from(FOR_EACH * PIECES);
    assert_eq!(more, vec![Crowd::Thick; many - 1]);
}

/// threats.md V1, V9: whichever way they leave, accepting goes on.
#[tokio::test]
async fn accepting_goes_on_when_the_crowd_leaves_or_is_sent_away() {
    let door = door(0);
    let mut waiting = crowd(&door, WAITING);
    let mut room = pin!(door.admit());
    assert!(now(room.as_mut()).is_pending());
    waiting.truncate(THINNED - 1);
    assert_eq!(now(room), Poll::Ready(Crowd::Thinned));

    let door = door_of(0, Duration::ZERO);
    let _waiting = crowd(&door, WAITING);
    let mut room = pin!(door.admit());
    assert!(now(room.as_mut()).is_pending());
    door.round(&mut None, || true); // their patience is over
    assert_eq!(now(room), Poll::Ready(Crowd::Thin));
}

/// threats.md V1: a signature of ours is a piece, too, when a device makes us ask for another key share first.
#[tokio::test]
async fn only_what_holds_no_signature_is_not_paced() {
    let door = door(10);
    take_all(&door);
    for (asks, so_far, waits) in [
        (true, Some(HandshakeKind::Full), true),
        (false, Some(HandshakeKind::Full), false),
        (true, Some(HandshakeKind::Resumed), false),
        (false, Some(HandshakeKind::FullWithHelloRetryRequest), true),
        (false, None, true),
    ] {
        let pieces = Pieces { door: &door, asks };
        let waited = now(pin!(pieces.next(so_far))).is_pending();
        assert_eq!(waited, waits, "{asks} {so_far:?}");
    }
}

/// threats.md V5: the return to a broker that was away is paced before the costly part.
#[tokio::test]
async fn nobody_begins_whom_no_broker_has_a_place_for_and_what_was_begun_goes_on() {
    let door = door(10);
    assert!(door.try_begin(false).is_none());
    take_all(&door);
    let mut new = Box::pin(door.begin(Caller::New));
    let mut begun = Box::pin(door.go_on());
    assert!(now(new.as_mut()).is_pending() && now(begun.as_mut()).is_pending());
    door.round(&mut None, || false);
    assert!(now(begun.as_mut()).is_ready() && now(new.as_mut()).is_pending());
    door.round(&mut None, || true);
    assert!(now(new.as_mut()).is_ready());
}

#[tokio::test]
async fn an_open_door_lets_in_all_who_come() {
    let door = Arc::new(door(3));
    let opened = door.clone();
    let opening = tokio::spawn(async move { opened.open(|| true).await });
    let mut devices = tokio::task::JoinSet::new();
    for n in 0..500 {
        let door = door.clone();
        devices.spawn(async move {
            let caller = if n % 2 == 0 {
                Caller::New
            } else {
                Caller::Returning
            };
            let turn = match door.try_begin(true) {
                Some(turn) => turn,
                None => door.begin(caller).await.expect("nobody waits for long"),
            };
            tokio::task::yield_now().await;
            door.go_on().await;
            drop(turn);
        });
    }
    while let Some(device) = devices.join_next().await {
        device.expect("no panic");
    }
    assert_eq!(door.turns.available_permits(), 3);
    opening.abort();
}
