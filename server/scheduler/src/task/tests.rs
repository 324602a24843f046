use jiff::Timestamp;

use super::{Answer, Event, Failure, Lease, Outcome, Refusal, State, Task, Terms};
use crate::retry::{Attempts, ErrorClass, GiveUp, RetryPolicy};
use crate::time::Span;

const RETRY: RetryPolicy = RetryPolicy {
    max_attempts: 2,
    first_delay: Span::minutes(1),
    max_delay: Span::hours(1),
    jitter: 0,
};
const TERMS: Terms<'static> = Terms { retry: &RETRY, seed: 0 };
const LENGTH: Span = Span::minutes(1);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn lease(until: i64) -> Lease {
    Lease { node: "n1".into(), token: 1, until: at(until) }
}

/// A task in each state, with its first lease, token 1, over at 60 s.
fn in_every_state() -> [Task; 8] {
    let why = Failure::WindowMissed;
    [
        State::Waiting { not_before: None },
        State::Leased { lease: lease(60) },
        State::Running { lease: lease(60) },
        State::Cancelling { lease: lease(60) },
        State::Succeeded,
        State::Warned,
        State::Failed { why },
        State::Cancelled,
    ]
    .map(|state| Task { state, attempts: Attempts::default(), token: 1 })
}

const ENDED: Answer = Answer::Refused(Refusal::Ended);
const BUSY: Answer = Answer::Refused(Refusal::InProgress);
const DONE_ALREADY: Answer = Answer::Refused(Refusal::DoneAlready);

/// What each event does in each state, in the order of [`in_every_state`]: the new state (by its
/// first letters), and the answer.
fn table() -> Vec<(Event, [(&'static str, Answer); 8])> {
    use Answer::{Done, Gone, Same};
    let finish = |outcome| Event::Finish { token: 1, outcome };
    let assign = Event::Assign { node: "n2".into(), length: LENGTH };
    let failed = Outcome::Failed { class: ErrorClass::Transient };
    let fatal = Outcome::Failed { class: ErrorClass::Permission };
    let (w, l, r, cg) = ("waiting", "leased", "running", "cancelling");
    let (s, wa, f, c) = ("succeeded", "warned", "failed", "cancelled");
    let ended = |outcome| {
        [(w, Same), outcome, outcome, outcome, (s, Same), (wa, Same), (f, Same), (c, Same)]
    };
    let mut on_error = ended((w, Done));
    on_error[3] = (c, Done);
    let mut on_fatal = ended((f, Done));
    on_fatal[3] = (c, Done);
    let unknown =
        [(w, Gone), (l, Gone), (r, Gone), (cg, Gone), (s, Gone), (wa, Gone), (f, Gone), (c, Gone)];
    let (rest, over) = (
        [(s, Same), (wa, Same), (f, Same), (c, Same)],
        [(s, Gone), (wa, Gone), (f, Gone), (c, Gone)],
    );
    let all = |first: [(&'static str, Answer); 4], last: [(&'static str, Answer); 4]| {
        let mut row = first.into_iter().chain(last);
        std::array::from_fn(|_| row.next().unwrap())
    };
    vec![
        (
            assign,
            all(
                [(l, Done), (l, BUSY), (r, BUSY), (cg, BUSY)],
                [(s, ENDED), (wa, ENDED), (f, ENDED), (c, ENDED)],
            ),
        ),
        (
            Event::Start { token: 1 },
            all([(w, Gone), (r, Done), (r, Same), (cg, Answer::Cancel)], over),
        ),
        (
            Event::Renew { token: 1, length: LENGTH },
            all([(w, Gone), (l, Done), (r, Done), (cg, Answer::Cancel)], over),
        ),
        (finish(Outcome::Succeeded), ended((s, Done))),
        (finish(Outcome::Warned), ended((wa, Done))),
        (finish(Outcome::Cancelled), ended((c, Done))),
        (finish(failed), on_error),
        (finish(fatal), on_fatal),
        (Event::Return { token: 1 }, all([(w, Gone), (w, Done), (w, Done), (c, Done)], over)),
        (Event::Start { token: 9 }, unknown),
        (Event::Renew { token: 9, length: LENGTH }, unknown),
        (Event::Finish { token: 9, outcome: Outcome::Succeeded }, unknown),
        (Event::Return { token: 9 }, unknown),
        (Event::Tick, all([(w, Same), (w, Done), (w, Done), (c, Done)], rest)),
        (
            Event::ServerBack { length: LENGTH },
            all([(w, Same), (l, Done), (r, Done), (cg, Done)], rest),
        ),
        (
            Event::Cancel,
            all(
                [(c, Done), (cg, Done), (cg, Done), (cg, Same)],
                [(s, ENDED), (wa, ENDED), (f, ENDED), (c, Same)],
            ),
        ),
        (
            Event::Expire,
            all(
                [(f, Done), (l, BUSY), (r, BUSY), (cg, BUSY)],
                [(s, ENDED), (wa, ENDED), (f, Same), (c, ENDED)],
            ),
        ),
        (
            Event::Restart,
            all(
                [(w, Same), (l, BUSY), (r, BUSY), (cg, BUSY)],
                [(s, DONE_ALREADY), (wa, DONE_ALREADY), (w, Done), (w, Done)],
            ),
        ),
    ]
}

#[test]
fn every_event_in_every_state_does_what_the_table_says() {
    for (event, row) in table() {
        for (mut task, (state, answer)) in in_every_state().into_iter().zip(row) {
            let before = task.clone();
            assert_eq!(task.on(event.clone(), at(70), TERMS), answer, "{before:?} {event:?}");
            let after = serde_json::to_value(&task.state).unwrap();
            assert_eq!(after["name"], state, "{before:?} {event:?}");
            if !matches!(answer, Answer::Done | Answer::Cancel) {
                assert_eq!(task, before, "{event:?}");
            }
        }
    }
}

#[test]
fn a_task_survives_its_text_in_every_state() {
    for task in in_every_state() {
        let text = serde_json::to_string(&task).unwrap();
        assert_eq!(serde_json::from_str::<Task>(&text).unwrap(), task, "{text}");
    }
}

#[test]
fn a_lease_that_is_only_just_over_is_not_taken_away_and_can_be_renewed() {
    let [_, _, mut task, ..] = in_every_state();
    assert_eq!(task.on(Event::Tick, at(69), TERMS), Answer::Same);
    let renew = Event::Renew { token: 1, length: LENGTH };
    assert_eq!(task.on(renew, at(69), TERMS), Answer::Done);
    assert_eq!(task.on(Event::Tick, at(138), TERMS), Answer::Same);
    assert_eq!(task.on(Event::Tick, at(139), TERMS), Answer::Done);
    assert_eq!(task.attempts, Attempts { failed: 0, lost: 1 });
}

#[test]
fn a_server_that_was_off_takes_nothing_from_nodes_that_could_not_renew() {
    let [_, _, mut task, ..] = in_every_state();
    let back = Event::ServerBack { length: LENGTH };
    assert_eq!(task.on(back, at(4000), TERMS), Answer::Done);
    assert_eq!(task.on(Event::Tick, at(4000), TERMS), Answer::Same);
    let finish = Event::Finish { token: 1, outcome: Outcome::Succeeded };
    assert_eq!(task.on(finish, at(4001), TERMS), Answer::Done);
}

#[test]
fn a_task_that_fails_waits_and_then_fails_for_good() {
    let mut task = Task::default();
    let assign = || Event::Assign { node: "n1".into(), length: LENGTH };
    let failed = Outcome::Failed { class: ErrorClass::Transient };
    assert_eq!(task.on(assign(), at(0), TERMS), Answer::Done);
    task.on(Event::Finish { token: 1, outcome: failed }, at(10), TERMS);
    assert_eq!(task.state, State::Waiting { not_before: Some(at(70)) });
    assert_eq!(task.on(assign(), at(69), TERMS), Answer::Refused(Refusal::NotYet));
    assert_eq!(task.on(Event::Expire, at(69), TERMS), Answer::Refused(Refusal::Tried));
    assert_eq!(task.on(assign(), at(70), TERMS), Answer::Done);
    task.on(Event::Finish { token: 2, outcome: failed }, at(80), TERMS);
    let gave_up = GiveUp::TooManyAttempts;
    let why = Failure::Error { class: ErrorClass::Transient, gave_up };
    assert_eq!(task.state, State::Failed { why });
    assert_eq!(task.on(Event::Restart, at(90), TERMS), Answer::Done);
    assert_eq!(task.attempts, Attempts::default());
    task.on(assign(), at(90), TERMS);
    assert_eq!(task.state.lease().map(|lease| lease.token), Some(3));
}
