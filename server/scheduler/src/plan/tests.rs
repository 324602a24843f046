use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::{Decisions, MissReason, Plan, Policy, Resource, Rule, Slot};
use crate::calendar::{Misfire, Schedule};
use crate::time::Span;
use crate::work::{Priority, TaskKind};
use crate::{ResourceId, RuleId};

/// A server that decides now and then, and stores what it is told.
struct Server {
    policies: Vec<Policy>,
    resources: Vec<Resource>,
    marks: HashMap<Slot, Timestamp>,
    active: HashSet<(RuleId, ResourceId)>,
}

impl Server {
    /// One rule with a schedule for each of `schedules`, and one resource, first seen `at`.
    fn new(schedules: &[Schedule], at: &str) -> Self {
        let schedules = schedules.iter().enumerate().map(|(number, schedule)| {
            (number.to_string().into(), schedule.compile().expect("a valid schedule"))
        });
        let rule = Rule {
            id: "full".into(),
            kind: TaskKind::Backup,
            destination: Some("vault".into()),
            paused: false,
            priority: Priority::default(),
            time_limit: Some(Span::hours(6)),
            schedules: schedules.collect(),
        };
        let resource = Resource {
            id: "web-1".into(),
            source: "host".into(),
            project: "shop".into(),
            policies: vec!["gold".into()],
            paused: false,
            present: true,
        };
        let mut server = Self {
            policies: vec![Policy { id: "gold".into(), paused: false, rules: vec![rule] }],
            resources: vec![resource],
            marks: HashMap::new(),
            active: HashSet::new(),
        };
        assert_eq!(server.at(at).tasks, []);
        server
    }

    fn at(&mut self, now: &str) -> Decisions {
        let Self { policies, resources, marks, active } = self;
        let decisions = Plan { policies, resources, marks, active }.decide(now.parse().expect(now));
        marks.extend(decisions.marks.iter().cloned());
        decisions
    }
}

fn daily(time: &str, misfire: Misfire) -> Schedule {
    Schedule { at: vec![time.parse().expect(time)], misfire, ..Schedule::default() }
}

/// Times of tasks and whether they are late; reasons of what is missed, and how often.
type Summary = (Vec<(String, bool)>, Vec<(MissReason, usize)>);

fn summary(decisions: &Decisions) -> Summary {
    let tasks = decisions.tasks.iter().map(|task| (task.due.to_string(), task.late));
    let missed = decisions.missed.iter().map(|missed| (missed.reason, missed.count));
    (tasks.collect(), missed.collect())
}

fn due(time: &str, late: bool) -> (String, bool) {
    (time.to_owned(), late)
}

#[test]
fn a_new_resource_owes_nothing_for_the_past_and_wakes_the_scheduler_in_time() {
    let mut server = Server::new(&[daily("02:00", Misfire::RunAll)], "2026-11-21T02:00:00Z");
    let decisions = server.at("2026-11-21T02:00:01Z");
    assert_eq!(summary(&decisions), (vec![], vec![]));
    assert_eq!(decisions.wake.map(|at| at.to_string()).as_deref(), Some("2026-11-22T02:00:00Z"));
}

#[test]
fn an_occurrence_becomes_one_task_with_its_times() {
    let mut server = Server::new(&[daily("02:00", Misfire::RunOnce)], "2026-11-20T12:00:00Z");
    let decisions = server.at("2026-11-21T02:00:30Z");
    let [task] = &*decisions.tasks else { panic!("{decisions:?}") };
    assert_eq!(task.key(), "full/0/web-1/2026-11-21T02:00:00Z");
    assert_eq!(task.start_by.to_string(), "2026-11-21T03:00:00Z");
    assert_eq!(task.finish_by.map(|at| at.to_string()).as_deref(), Some("2026-11-21T08:00:00Z"));
    assert!(!task.late);
    assert_eq!(summary(&server.at("2026-11-21T02:00:31Z")), (vec![], vec![]));
}

#[test]
fn what_was_missed_is_skipped_run_once_or_run_all() {
    let (start, now) = ("2026-11-18T12:00:00Z", "2026-11-21T12:00:00Z");
    let cases = [
        (Misfire::Skip, vec![], vec![(MissReason::TooLate, 3)]),
        (
            Misfire::RunOnce,
            vec![due("2026-11-21T02:00:00Z", true)],
            vec![(MissReason::Superseded, 2)],
        ),
        (
            Misfire::RunAll,
            vec![
                due("2026-11-19T02:00:00Z", true),
                due("2026-11-20T02:00:00Z", true),
                due("2026-11-21T02:00:00Z", true),
            ],
            vec![],
        ),
    ];
    for (misfire, tasks, missed) in cases {
        let mut server = Server::new(&[daily("02:00", misfire)], start);
        let decisions = server.at(now);
        assert_eq!(summary(&decisions), (tasks, missed), "{misfire:?}");
        let until = "2026-11-21T13:00:00Z".parse().unwrap();
        assert!(decisions.tasks.iter().all(|task| task.start_by == until));
        assert_eq!(summary(&server.at(now)), (vec![], vec![]));
    }
}

#[test]
fn skipping_still_runs_what_is_within_its_window() {
    let mut server = Server::new(&[daily("02:00", Misfire::Skip)], "2026-11-18T12:00:00Z");
    let expected = (vec![due("2026-11-21T02:00:00Z", false)], vec![(MissReason::Superseded, 2)]);
    assert_eq!(summary(&server.at("2026-11-21T02:59:59Z")), expected);
}

#[test]
fn several_schedules_of_a_rule_make_one_task_at_a_time() {
    let both = [daily("02:00", Misfire::RunOnce), daily("02:00", Misfire::RunOnce)];
    let mut server = Server::new(&both, "2026-11-20T12:00:00Z");
    let expected = (vec![due("2026-11-21T02:00:00Z", false)], vec![(MissReason::Merged, 1)]);
    assert_eq!(summary(&server.at("2026-11-21T02:00:00Z")), expected);
}

#[test]
fn what_is_paused_gone_or_still_active_is_missed_and_not_made_up_for() {
    type Change = fn(&mut Server);
    let cases: [(MissReason, Change, Change); 5] = [
        (MissReason::Paused, |s| s.policies[0].paused = true, |s| s.policies[0].paused = false),
        (
            MissReason::Paused,
            |s| s.policies[0].rules[0].paused = true,
            |s| s.policies[0].rules[0].paused = false,
        ),
        (MissReason::Paused, |s| s.resources[0].paused = true, |s| s.resources[0].paused = false),
        (MissReason::Absent, |s| s.resources[0].present = false, |s| s.resources[0].present = true),
        (
            MissReason::StillActive,
            |s| s.active = HashSet::from([("full".into(), "web-1".into())]),
            |s| s.active.clear(),
        ),
    ];
    for (reason, hold, release) in cases {
        let mut server = Server::new(&[daily("02:00", Misfire::RunAll)], "2026-11-18T12:00:00Z");
        hold(&mut server);
        let decisions = server.at("2026-11-20T02:00:00Z");
        assert_eq!(summary(&decisions), (vec![], vec![(reason, 2)]));
        release(&mut server);
        assert_eq!(summary(&server.at("2026-11-20T02:00:05Z")), (vec![], vec![]));
        let expected = (vec![due("2026-11-21T02:00:00Z", false)], vec![]);
        assert_eq!(summary(&server.at("2026-11-21T02:00:05Z")), expected);
    }
}

#[test]
fn a_clock_that_goes_back_a_little_doubles_nothing() {
    let mut server = Server::new(&[daily("02:00", Misfire::RunOnce)], "2026-11-20T12:00:00Z");
    assert_eq!(server.at("2026-11-21T02:00:05Z").tasks.len(), 1);
    for now in ["2026-11-21T01:59:00Z", "2026-11-21T02:00:00Z", "2026-11-21T02:10:00Z"] {
        assert_eq!(server.at(now), Decisions { wake: server.at(now).wake, ..<_>::default() });
    }
    assert_eq!(server.at("2026-11-22T02:00:00Z").tasks.len(), 1);
}

#[test]
fn a_clock_that_was_a_year_ahead_does_not_stop_the_schedule_for_a_year() {
    let mut server = Server::new(&[daily("02:00", Misfire::RunOnce)], "2026-11-20T12:00:00Z");
    let ahead = server.at("2027-11-20T12:00:00Z");
    assert_eq!(summary(&ahead).1, [(MissReason::Superseded, 364)]);
    assert_eq!(server.at("2026-11-20T12:01:00Z").set_back.len(), 1);
    let mut tasks = 0;
    for day in 21..=24 {
        tasks += server.at(&format!("2026-11-{day}T02:00:01Z")).tasks.len();
    }
    assert_eq!(tasks, 3);
}

#[test]
fn a_long_outage_is_counted_with_bounds_and_the_latest_runs() {
    let every =
        Schedule { every: Some(Span::minutes(1)), misfire: Misfire::RunAll, ..Schedule::default() };
    let mut server = Server::new(&[every], "2025-11-21T00:00:00Z");
    let decisions = server.at("2026-11-21T00:00:30Z");
    assert_eq!(decisions.tasks.len(), super::MAX_CATCH_UP);
    let last = decisions.tasks.last().map(|task| task.due.to_string());
    assert_eq!(last.as_deref(), Some("2026-11-21T00:00:00Z"));
    assert_eq!(decisions.missed[0].count, super::MAX_COUNTED - super::MAX_CATCH_UP);
    assert_eq!(summary(&server.at("2026-11-21T00:00:40Z")), (vec![], vec![]));
}
