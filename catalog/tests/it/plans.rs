//! Restore tests, and runs of recovery plans.

use serde_json::json;
use sluice_catalog::{
    BootSpec, DestinationId, ErrorKind, InstanceId, NewPoint, NewTask, NewTest, Page, Plan, PlanId,
    PlanMode, PlanRun, PlanRunFilter, PlanRunId, PlanRunState, PointId, PolicyId, ProjectId,
    RestoreTestId, TaskState, TestFilter, TestOutcome, TestState, Visible,
};

use crate::support::{Lab, on_both};

on_both! {
    a_test_ends_once_and_keeps_what_proves_it
    tests_of_tasks_that_ended_unheard_are_found
    only_the_newest_tests_keep_their_evidence
    the_newest_point_is_the_one_that_was_taken_last
    a_run_is_changed_by_who_has_seen_it_last
    plans_that_change_are_noticed
    a_mark_is_moved_by_who_knows_where_it_stands
}

fn new(instance: InstanceId) -> NewTest {
    NewTest {
        project: Some(ProjectId::new(1)),
        instance,
        point: PointId::new(1),
        destination: DestinationId::new(1),
        policy: Some(PolicyId::new(1)),
        spec: BootSpec { timeout_seconds: 7, ..BootSpec::default() },
    }
}

fn outcome(state: TestState) -> TestOutcome {
    TestOutcome {
        state,
        report: json!({"verdict": state.word()}),
        message: "no\0thing".into(),
        screenshot: "aGk=".into(),
        console: "login:\0".into(),
    }
}

async fn a_test_ends_once_and_keeps_what_proves_it(lab: Lab) {
    let mut tx = lab.catalog.begin().await.unwrap();
    let (id, wanted) = (RestoreTestId::new(1), new(InstanceId::new(1)));
    tx.add_test(id, &wanted, None, 1).await.unwrap();
    assert!(tx.test_pending(wanted.instance, wanted.policy.unwrap()).await.unwrap());
    let made = tx.test(id, &Visible::All).await.unwrap();
    assert_eq!((&made.new, made.state, made.has_screenshot), (&wanted, TestState::Pending, false));
    assert!(tx.end_test(id, &outcome(TestState::Failed), 2).await.unwrap());
    assert!(!tx.end_test(id, &outcome(TestState::Ok), 3).await.unwrap(), "it has ended");
    let ended = tx.test(id, &Visible::All).await.unwrap();
    assert_eq!((ended.state, &*ended.message), (TestState::Failed, "nothing"));
    assert_eq!((ended.has_screenshot, ended.report["verdict"].as_str()), (true, Some("failed")));
    let evidence = tx.test_evidence(id).await.unwrap();
    assert_eq!((&*evidence.0, &*evidence.1), ("aGk=", "login:"));
    assert!(!tx.test_pending(wanted.instance, wanted.policy.unwrap()).await.unwrap());
    let others = Visible::projects([ProjectId::new(2)]);
    assert_eq!(tx.test(id, &others).await.unwrap_err().kind(), ErrorKind::NotFound);
    let none = tx.tests(&others, &TestFilter::default(), &Page::default()).await.unwrap();
    assert!(none.is_empty());
}

async fn tests_of_tasks_that_ended_unheard_are_found(lab: Lab) {
    let mut tx = lab.catalog.begin().await.unwrap();
    let task = NewTask {
        project: None,
        instance: None,
        policy: None,
        destination: None,
        wanted_node: None,
        kind: "restore-test".into(),
        priority: 1,
        due_key: None,
        max_attempts: 1,
        not_before_ms: 0,
        spec: json!({}),
    };
    let task = tx.add_task(&task, 1).await.unwrap().unwrap();
    let id = RestoreTestId::new(1);
    tx.add_test(id, &new(InstanceId::new(1)), Some(task), 1).await.unwrap();
    assert!(tx.tests_to_settle().await.unwrap().items.is_empty(), "its task waits");
    assert_eq!(tx.cancel(task, 2).await.unwrap().state, TaskState::Cancelled);
    let found = tx.tests_to_settle().await.unwrap();
    assert_eq!(found.items.iter().map(|test| test.id).collect::<Vec<_>>(), [id]);
    tx.end_test(id, &outcome(TestState::Cancelled), 3).await.unwrap();
    assert!(tx.tests_to_settle().await.unwrap().items.is_empty());
}

async fn only_the_newest_tests_keep_their_evidence(lab: Lab) {
    let mut tx = lab.catalog.begin().await.unwrap();
    let (one, other) = (InstanceId::new(1), InstanceId::new(2));
    let mut ids = Vec::new();
    for (at, instance) in [other].into_iter().chain([one; 32]).enumerate() {
        let id = RestoreTestId::new(10 + at as u64);
        tx.add_test(id, &new(instance), None, 1).await.unwrap();
        tx.end_test(id, &outcome(TestState::Ok), 2).await.unwrap();
        ids.push(id);
    }
    let filter =
        TestFilter { state: Some(TestState::Ok), instance: Some(one), ..TestFilter::default() };
    let all = tx.tests(&Visible::All, &filter, &Page::default()).await.unwrap();
    assert_eq!((all.len(), all[0].id), (32, ids[32]), "newest first, and none is forgotten");
    let kept: Vec<_> = all.iter().map(|test| test.has_screenshot).collect();
    assert!(kept[..30].iter().all(|kept| *kept) && !kept[30] && !kept[31]);
    assert!(tx.test(ids[0], &Visible::All).await.unwrap().has_screenshot, "another instance's");
}

async fn the_newest_point_is_the_one_that_was_taken_last(lab: Lab) {
    let mut tx = lab.catalog.begin().await.unwrap();
    let (here, there) = (DestinationId::new(1), DestinationId::new(2));
    let instance = InstanceId::new(1);
    let new = |destination, name: &'static str, taken_ms| (destination, name, taken_ms);
    for (destination, name, at) in
        [new(here, "a@2", 20), new(here, "a@1", 10), new(there, "a@3", 30)]
    {
        let point = NewPoint {
            destination,
            task: None,
            point: name.into(),
            taken_ms: at,
            image_bytes: 1,
            new_bytes: 1,
            stored_bytes: 1,
        };
        tx.add_point(instance, None, &point, 1).await.unwrap();
    }
    let mut name = async |destination, until| {
        let found = tx.newest_point(instance, destination, until).await.unwrap();
        found.map(|point| point.new.point).unwrap_or_default()
    };
    assert_eq!(name(None, None).await, "a@3");
    assert_eq!(name(Some(here), None).await, "a@2");
    assert_eq!(name(None, Some(19)).await, "a@1");
    assert_eq!(name(None, Some(9)).await, "");
    tx.points_removed(there, &["a@3".into()], 5).await.unwrap();
    let left = tx.newest_point(instance, None, None).await.unwrap().unwrap();
    assert_eq!(left.new.point, "a@2", "what is gone is not taken");
}

fn run(due_key: Option<&str>) -> PlanRun {
    PlanRun {
        id: PlanRunId::new(1),
        project: Some(ProjectId::new(1)),
        plan: PlanId::new(1),
        plan_name: "flood".into(),
        mode: PlanMode::Test,
        state: PlanRunState::Running,
        due_key: due_key.map(str::to_owned),
        revision: 1,
        created_ms: 1,
        finished_ms: None,
        message: String::new(),
        body: json!({"steps": []}),
    }
}

async fn a_run_is_changed_by_who_has_seen_it_last(lab: Lab) {
    let mut tx = lab.catalog.begin().await.unwrap();
    let mut first = run(Some("plan/nightly/5"));
    assert!(tx.add_plan_run(&first).await.unwrap());
    assert!(!tx.add_plan_run(&run(Some("plan/nightly/5"))).await.unwrap(), "it is there");
    assert!(
        tx.add_plan_run(&run(None)).await.unwrap() && tx.add_plan_run(&run(None)).await.unwrap()
    );
    assert_eq!(tx.plan_run(first.id, &Visible::All).await.unwrap(), first);
    assert_eq!(tx.plan_runs_under_way().await.unwrap().len(), 3);
    first.state = PlanRunState::Failed;
    first.finished_ms = Some(9);
    tx.save_plan_run(&first).await.unwrap();
    let late = tx.save_plan_run(&first).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Stale);
    let kept = tx.plan_run(first.id, &Visible::All).await.unwrap();
    assert_eq!((kept.state, kept.finished_ms, kept.revision), (PlanRunState::Failed, Some(9), 2));
    assert_eq!(tx.plan_runs_under_way().await.unwrap().len(), 2);
    let state = Some(PlanRunState::Failed);
    let filter = PlanRunFilter { state, plan: Some(first.plan), ..PlanRunFilter::default() };
    let failed = tx.plan_runs(&Visible::All, &filter, &Page::default()).await.unwrap();
    assert_eq!(failed.iter().map(|run| run.id).collect::<Vec<_>>(), [first.id]);
    let others = Visible::projects([ProjectId::new(2)]);
    assert_eq!(tx.plan_run(first.id, &others).await.unwrap_err().kind(), ErrorKind::NotFound);
}

async fn plans_that_change_are_noticed(lab: Lab) {
    let project = Some(crate::records::project(&lab.catalog, "shop").await);
    let mut tx = lab.catalog.begin().await.unwrap();
    let mut seen = vec![tx.changes_of::<Plan>().await.unwrap()];
    let body: Plan = serde_json::from_value(json!({"groups": []})).unwrap();
    let mut plan = tx.insert(project, "flood", body, 1).await.unwrap();
    seen.push(tx.changes_of::<Plan>().await.unwrap());
    plan.body.description = "water".into();
    tx.update(&mut plan, 2).await.unwrap();
    seen.push(tx.changes_of::<Plan>().await.unwrap());
    seen.dedup();
    assert_eq!(seen.len(), 3, "{seen:?}");
}

async fn a_mark_is_moved_by_who_knows_where_it_stands(lab: Lab) {
    let project = Some(crate::records::project(&lab.catalog, "shop").await);
    let mut tx = lab.catalog.begin().await.unwrap();
    let body: Plan = serde_json::from_value(json!({"groups": []})).unwrap();
    let plan = tx.insert(project, "flood", body, 1).await.unwrap().id;
    tx.commit().await.unwrap();
    // Two servers that find the same due, one after the other and at once.
    let moved = async |from, to| {
        let mut tx = lab.catalog.begin().await.unwrap();
        let moved = tx.move_mark::<Plan>(plan, "nightly", from, to).await.unwrap();
        tx.commit().await.unwrap();
        moved
    };
    assert!(!moved(Some(3), 5).await, "it has none yet");
    assert!(moved(None, 5).await && !moved(None, 5).await);
    let (one, other) = tokio::join!(moved(Some(5), 7), moved(Some(5), 7));
    assert_ne!(one, other, "of two, one has moved it");
    assert!(!moved(Some(5), 9).await, "it stands elsewhere");
    assert!(moved(Some(7), 6).await, "a wrong clock is put right");
    let mut tx = lab.catalog.read().await.unwrap();
    assert_eq!(tx.mark::<Plan>(plan, "nightly").await.unwrap(), Some(6));
    assert_eq!(tx.mark::<Plan>(plan, "daily").await.unwrap(), None);
    let marks = tx.marks::<Plan>().await.unwrap();
    assert_eq!(marks, [((plan, "nightly".to_owned()), 6)].into());
}
