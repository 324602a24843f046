//! Plans over simulated weeks with outages, crashes, pauses and clocks that are set: every
//! occurrence is accounted for, once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::{Strategy, prop_oneof, proptest};
use proptest::sample::select;
use sluice_scheduler::calendar::{Misfire, Schedule};
use sluice_scheduler::plan::{Plan, Policy, Resource, Rule, Slot};
use sluice_scheduler::time::Span;
use sluice_scheduler::work::{Priority, TaskKind};

#[derive(Debug, Clone, Copy)]
enum Action {
    /// So many minutes later, the server decides and stores what it decided.
    Decide(u64),
    /// So many minutes later it decides, and dies before it has stored anything.
    Crash(u64),
    /// The clock goes back by so many minutes, less than from one occurrence to the next.
    Back(u64),
    /// The policy is paused, or goes on.
    Pause,
    /// The task ends, if there is one.
    End,
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (0_u64..200).prop_map(Action::Decide),
        1 => (200_u64..20_000).prop_map(Action::Decide),
        2 => (0_u64..200).prop_map(Action::Crash),
        1 => (1_u64..60).prop_map(Action::Back),
        1 => select(vec![Action::Pause]),
        3 => select(vec![Action::End]),
    ]
}

fn schedules() -> Vec<Schedule> {
    let at = |text: &str| vec![text.parse().unwrap()];
    let zone = Some("Europe/Berlin".to_owned());
    vec![
        Schedule { at: at("02:30"), zone: zone.clone(), ..Schedule::default() },
        Schedule { every: Some(Span::minutes(60)), zone: zone.clone(), ..Schedule::default() },
        Schedule { cron: Some("0 */6 * * *".to_owned()), zone, ..Schedule::default() },
    ]
}

proptest! {
    #[test]
    fn every_occurrence_becomes_a_task_or_is_missed_once(
        actions in vec(any_action(), 1..50),
        misfire in select(vec![Misfire::Skip, Misfire::RunOnce, Misfire::RunAll]),
    ) {
        let compiled: Vec<_> = schedules()
            .into_iter()
            .enumerate()
            .map(|(number, schedule)| {
                let schedule = Schedule { misfire, ..schedule };
                (number.to_string().into(), schedule.compile().unwrap())
            })
            .collect();
        let rule = Rule {
            id: "rule".into(),
            kind: TaskKind::Backup,
            destination: None,
            paused: false,
            priority: Priority::default(),
            time_limit: None,
            schedules: compiled.clone(),
        };
        let mut policies = [Policy { id: "gold".into(), paused: false, rules: vec![rule] }];
        let resources = [Resource {
            id: "web-1".into(),
            source: "host".into(),
            project: "shop".into(),
            policies: vec!["gold".into()],
            paused: false,
            present: true,
        }];
        let (mut marks, mut active) = (HashMap::new(), HashSet::new());
        // Two weeks before clocks are set forward.
        let start: Timestamp = "2026-03-15T00:10:00Z".parse().unwrap();
        let (mut now, mut latest) = (start, start);
        let mut keys = BTreeSet::new();
        let mut accounted: BTreeMap<Slot, usize> = BTreeMap::new();
        let first = [Action::Decide(0)];
        for action in first.into_iter().chain(actions).chain([Action::Decide(0)]) {
            let stored = match action {
                Action::Decide(minutes) | Action::Crash(minutes) => {
                    now = Span::minutes(minutes).after(now);
                    matches!(action, Action::Decide(_))
                }
                Action::Back(minutes) => {
                    now = Span::minutes(minutes).before(latest).max(start).min(now);
                    true
                }
                Action::Pause => {
                    policies[0].paused = !policies[0].paused;
                    continue;
                }
                Action::End => {
                    active.clear();
                    continue;
                }
            };
            let plan = Plan {
                policies: &policies,
                resources: &resources,
                marks: &marks,
                active: &active,
            };
            let decisions = plan.decide(now);
            assert!(decisions.set_back.is_empty());
            assert!(decisions.wake.is_some_and(|wake| wake > now));
            if !stored {
                continue;
            }
            latest = latest.max(now);
            if policies[0].paused {
                assert_eq!(decisions.tasks, []);
            }
            for task in &decisions.tasks {
                assert!(keys.insert(task.key()), "{} twice", task.key());
                assert!(task.due <= now && task.start_by > now);
                *accounted.entry(task.slot.clone()).or_default() += 1;
            }
            for missed in &decisions.missed {
                assert!(missed.first <= missed.last && missed.last <= now);
                *accounted.entry(missed.slot.clone()).or_default() += missed.count;
            }
            active.extend(
                decisions.tasks.iter().map(|task| (task.slot.rule.clone(), "web-1".into())),
            );
            marks.extend(decisions.marks);
        }
        // The clock may stand a little back from the latest decision.
        for (schedule, calendar) in compiled {
            let slot = Slot { rule: "rule".into(), schedule, resource: "web-1".into() };
            let expected = calendar.between(start, latest).count();
            assert_eq!(accounted.get(&slot).copied().unwrap_or(0), expected, "{calendar}");
        }
    }
}
