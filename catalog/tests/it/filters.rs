use std::collections::BTreeSet;

use serde_json::json;
use sluice_catalog::{
    AuditEntry, AuditFilter, DestinationId, Instance, InstanceId, Kind, NewPoint, NewTask, Node,
    NodeId, Page, PointFilter, PolicyId, Project, ProjectId, Resource, Scope, Sought, Span,
    TaskFilter, TaskState, Tx, Visible,
};

use crate::support::{Lab, on_both};

on_both! {
    tasks_are_those_that_are_asked_for_whoever_asks
    points_come_in_the_order_of_their_moments_page_by_page
    entries_of_the_audit_log_are_found_by_who_did_what_and_when
    records_are_sought_by_project_name_and_what_they_say
    one_that_cannot_be_read_is_told_apart
}

const DAY: u64 = 86_400_000;

fn task(kind: &str, project: u64, destination: DestinationId) -> NewTask {
    NewTask {
        project: Some(ProjectId::new(project)),
        instance: None,
        policy: None,
        destination: Some(destination),
        wanted_node: None,
        kind: kind.to_owned(),
        priority: 50,
        due_key: None,
        max_attempts: 1,
        not_before_ms: 0,
        spec: json!(null),
    }
}

/// An id of which the project's is made: ids are as good as random.
fn project(of: &NewTask) -> ProjectId {
    of.project.unwrap()
}

async fn tasks_are_those_that_are_asked_for_whoever_asks(Lab { catalog, .. }: Lab) {
    let (near, far) = (DestinationId::new(1), DestinationId::new(2));
    let (shop, blog) = (task("backup", 1, near), task("backup", 2, far));
    let node = NodeId::new(3);
    let (policy, instance) = (PolicyId::new(4), InstanceId::new(5));
    let mut tx = catalog.begin().await.unwrap();
    let mut ids = Vec::new();
    for (day, new) in [
        (1, shop.clone()),
        (2, NewTask { kind: "restore".into(), ..shop.clone() }),
        (3, blog.clone()),
        (4, NewTask { policy: Some(policy), instance: Some(instance), ..shop.clone() }),
        (5, NewTask { kind: "restore".into(), policy: Some(policy), ..blog.clone() }),
    ] {
        ids.push(tx.add_task(&new, day * DAY).await.unwrap().unwrap());
    }
    tx.lease(ids[2], node, 6 * DAY, 7 * DAY).await.unwrap();
    tx.cancel(ids[1], 6 * DAY).await.unwrap();
    let none = TaskFilter::default();
    let word = |word: &str| Some(word.to_owned());
    let cancelled = Some(TaskState::Cancelled);
    let wanted: [(TaskFilter, &[usize]); 12] = [
        (none.clone(), &[4, 3, 2, 1, 0]),
        (TaskFilter { oldest_first: true, ..none.clone() }, &[0, 1, 2, 3, 4]),
        (TaskFilter { kind: word("restore"), ..none.clone() }, &[4, 1]),
        (TaskFilter { kind: word("restore"), state: cancelled, ..none.clone() }, &[1]),
        (TaskFilter { project: Some(project(&shop)), ..none.clone() }, &[3, 1, 0]),
        (TaskFilter { policy: Some(policy), ..none.clone() }, &[4, 3]),
        (TaskFilter { policy: Some(policy), kind: word("backup"), ..none.clone() }, &[3]),
        (TaskFilter { destination: Some(far), ..none.clone() }, &[4, 2]),
        (TaskFilter { node: Some(node), ..none.clone() }, &[2]),
        (TaskFilter { instance: Some(instance), node: Some(node), ..none.clone() }, &[]),
        (
            TaskFilter {
                added: Span { since_ms: Some(2 * DAY), until_ms: Some(4 * DAY) },
                ..none.clone()
            },
            &[2, 1],
        ),
        (
            TaskFilter {
                added: Span { since_ms: Some(2 * DAY), until_ms: None },
                oldest_first: true,
                kind: word("backup"),
                ..none
            },
            &[2, 3],
        ),
    ];
    let single = Visible::within([
        Scope::Project(project(&shop)),
        Scope::Resource(Resource::Destination(far)),
    ]);
    let both = Visible::projects([project(&shop), project(&blog)]);
    for (filter, wanted) in &wanted {
        let wanted: Vec<_> = wanted.iter().map(|at| ids[*at]).collect();
        for visible in [&Visible::All, &both, &single] {
            // One at a time, as a list goes on.
            let (mut found, mut page) = (Vec::new(), Page { after: None, limit: 1 });
            loop {
                let part = tx.tasks_found(visible, filter, &page).await.unwrap();
                found.extend(part.items.into_iter().map(|task| task.id));
                if part.next.is_none() {
                    break;
                }
                page.after = part.next;
            }
            assert_eq!(found, wanted, "{filter:?} {visible:?}");
        }
        let stranger = Visible::projects([ProjectId::new(9)]);
        assert!(tx.tasks(&stranger, filter, &Page::default()).await.unwrap().is_empty());
    }
}

async fn points_come_in_the_order_of_their_moments_page_by_page(Lab { catalog, .. }: Lab) {
    let (near, far) = (DestinationId::new(1), DestinationId::new(2));
    let (web, db) = (InstanceId::new(1), InstanceId::new(2));
    let own = ProjectId::new(1);
    let mut tx = catalog.begin().await.unwrap();
    // They became known in another order than that of their moments, of which two are the same.
    for (known, day, instance, destination) in [
        (100, 5, web, near),
        (101, 1, web, near),
        (102, 3, db, near),
        (103, 3, web, far),
        (104, 9, db, far),
    ] {
        let new = NewPoint {
            destination,
            task: None,
            point: format!("p{known}"),
            taken_ms: day,
            image_bytes: 1,
            new_bytes: 1,
            stored_bytes: 1,
        };
        tx.add_point(instance, Some(own), &new, known).await.unwrap();
    }
    let none = PointFilter::default();
    let (newest, oldest) = (Some(true), Some(false));
    let span = |since, until| Span { since_ms: Some(since), until_ms: Some(until) };
    let wanted: [(PointFilter, &str); 8] = [
        (none, "100 101 102 103 104"),
        (PointFilter { newest_first: oldest, ..none }, "101 102 103 100 104"),
        (PointFilter { newest_first: newest, ..none }, "104 100 103 102 101"),
        (PointFilter { taken: span(3, 9), ..none }, "102 103 100"),
        (PointFilter { taken: span(3, 9), newest_first: newest, ..none }, "100 103 102"),
        (PointFilter { destination: Some(near), ..none }, "101 102 100"),
        (PointFilter { destination: Some(near), instance: Some(web), ..none }, "101 100"),
        (PointFilter { project: Some(own), taken: span(0, 2), ..none }, "101"),
    ];
    let single = [web, db].map(|id| Scope::Resource(Resource::Instance(id)));
    for visible in [Visible::All, Visible::projects([own]), Visible::within(single)] {
        for (filter, wanted) in &wanted {
            let (mut found, mut page) = (Vec::new(), Page { after: None, limit: 2 });
            loop {
                let part = tx.points_found(&visible, filter, &page).await.unwrap();
                assert!(part.items.len() <= 2);
                found.extend(part.items.into_iter().map(|one| one.new.point[1..].to_owned()));
                if part.next.is_none() {
                    break;
                }
                page.after = part.next;
            }
            assert_eq!(found.join(" "), *wanted, "{filter:?} {visible:?}");
        }
    }
    let page = Page { after: Some("not a place".into()), limit: 1 };
    let filter = PointFilter { newest_first: newest, ..none };
    assert!(tx.points_found(&Visible::All, &filter, &page).await.is_err());
}

async fn entries_of_the_audit_log_are_found_by_who_did_what_and_when(Lab { catalog, .. }: Lab) {
    let own = ProjectId::new(1);
    let mut tx = catalog.begin().await.unwrap();
    for (day, actor, action, object) in [
        (1, "anna", "policy.create", "a"),
        (2, "otto", "policy.remove", "a"),
        (3, "anna", "user.create", "b"),
        (4, "anna", "policy.create", "c"),
    ] {
        let (actor, object) = (actor.to_owned(), object.to_owned());
        let entry = AuditEntry { actor, action, object, project: Some(own), detail: json!({}) };
        tx.audit(entry, day * DAY).await.unwrap();
    }
    let word = |word: &str| Some(word.to_owned());
    let none = AuditFilter::default();
    let at = Span { since_ms: Some(2 * DAY), until_ms: Some(4 * DAY) };
    let wanted: [(AuditFilter, &[u64]); 13] = [
        (AuditFilter { actor: word("anna"), ..none.clone() }, &[1, 3, 4]),
        (AuditFilter { actor: word("anna"), newest_first: true, ..none.clone() }, &[4, 3, 1]),
        (AuditFilter { action: word("policy.create"), ..none.clone() }, &[1, 4]),
        (AuditFilter { action: word("policy.*"), ..none.clone() }, &[1, 2, 4]),
        (AuditFilter { action: word("policy.*"), newest_first: true, ..none.clone() }, &[4, 2, 1]),
        (AuditFilter { action: word("policy.*"), actor: word("otto"), ..none.clone() }, &[2]),
        (AuditFilter { action: word("policy.*"), at, ..none.clone() }, &[2]),
        (AuditFilter { action: word("user.*"), ..none.clone() }, &[3]),
        (AuditFilter { action: word("node.*"), ..none.clone() }, &[]),
        (AuditFilter { object: word("a"), actor: word("otto"), ..none.clone() }, &[2]),
        (AuditFilter { at, ..none.clone() }, &[2, 3]),
        (AuditFilter { at, newest_first: true, ..none.clone() }, &[3, 2]),
        (AuditFilter { project: Some(ProjectId::new(2)), ..none }, &[]),
    ];
    for visible in [Visible::All, Visible::projects([own])] {
        for (filter, wanted) in &wanted {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let part = tx.audit_found(&visible, filter, after, 1).await.unwrap();
                found.extend(part.items.iter().map(|row| row.seq));
                let Some(next) = part.next else { break };
                after = Some(next.parse().unwrap());
            }
            assert_eq!(found, *wanted, "{filter:?} {visible:?}");
        }
    }
}

fn instance(tags: &[&str], paused: bool) -> Instance {
    let source = json!({"kind": "device", "path": "/dev/vdb"});
    serde_json::from_value(json!({"source": source, "tags": tags, "paused": paused})).unwrap()
}

async fn records_are_sought_by_project_name_and_what_they_say(Lab { catalog, .. }: Lab) {
    let mut tx = catalog.begin().await.unwrap();
    let none = || serde_json::from_value::<Project>(json!({})).unwrap();
    let shop = tx.insert(None, "shop", none(), 1).await.unwrap().id;
    let blog = tx.insert(None, "blog", none(), 2).await.unwrap().id;
    for number in 0..300 {
        // What is said of a tag also stands elsewhere, and means something else there.
        let tags: &[&str] = if number % 100 == 7 { &["gold"] } else { &["golden", "old"] };
        let mut body = instance(tags, number % 2 == 1);
        body.description = r#"not "gold""#.to_owned();
        let project = if number < 200 { shop } else { blog };
        tx.insert(Some(project), &format!("web_{number}"), body, 10 + number).await.unwrap();
    }
    tx.insert(Some(shop), "webx1", instance(&[], false), 900).await.unwrap();
    let mut count = async |visible: &Visible, sought: &Sought, tag: Option<&str>, limit: u32| {
        let (mut names, mut page) = (BTreeSet::new(), Page { after: None, limit });
        let judge = |one: &sluice_catalog::Record<Instance>| {
            tag.is_none_or(|tag| one.body.tags.contains(tag))
        };
        loop {
            let part = tx.seek::<Instance>(visible, sought, judge, &page).await.unwrap();
            assert!(part.items.len() <= limit as usize && part.unreadable.is_empty());
            for one in part.items {
                assert!(names.insert(one.name), "twice");
            }
            if part.next.is_none() {
                return names.len();
            }
            page.after = part.next;
        }
    };
    let tagged = Sought::default().saying(Some(&"gold")).unwrap();
    let named = |project, name: &str| Sought::named(project, Some(name.to_owned()));
    let (all, own) = (Visible::All, Visible::projects([blog]));
    for limit in [1, 7, 1000] {
        assert_eq!(count(&all, &Sought::default(), None, limit).await, 301);
        assert_eq!(count(&all, &tagged, Some("gold"), limit).await, 3);
        assert_eq!(count(&own, &tagged, Some("gold"), limit).await, 1);
        assert_eq!(count(&all, &named(None, "web_1?"), None, limit).await, 10);
        assert_eq!(count(&all, &named(Some(shop), "web_*"), None, limit).await, 200);
        assert_eq!(count(&own, &named(Some(shop), "web_*"), None, limit).await, 0);
        assert_eq!(count(&all, &named(Some(blog), "web_250"), None, limit).await, 1);
    }
}

/// Nodes as nobody writes them.
#[derive(serde::Serialize, serde::Deserialize)]
struct Odd(u32);

impl Kind for Odd {
    type Id = NodeId;
    const TABLE: &'static str = "nodes";
    const WORD: &'static str = "node";
    const SHARED: bool = false;

    fn check(&self) -> sluice_catalog::Result<()> {
        Ok(())
    }
}

async fn add_odd(tx: &mut Tx) -> NodeId {
    tx.insert(None, "odd", Odd(7), 2).await.unwrap().id
}

async fn one_that_cannot_be_read_is_told_apart(Lab { catalog, .. }: Lab) {
    let mut tx = catalog.begin().await.unwrap();
    tx.insert(None, "first", Node::default(), 1).await.unwrap();
    let odd = add_odd(&mut tx).await;
    tx.insert(None, "last", Node::default(), 3).await.unwrap();
    assert!(tx.list::<Node>(&Visible::All, &Page::default()).await.is_err());
    let (all, any) = (Visible::All, |_: &_| true);
    for limit in [1, 2, 10] {
        let (mut names, mut told) = (Vec::new(), Vec::new());
        let mut page = Page { after: None, limit };
        loop {
            let part = tx.seek::<Node>(&all, &Sought::default(), any, &page).await.unwrap();
            names.extend(part.items.into_iter().map(|one| one.name));
            told.extend(part.unreadable.into_iter().map(|one| (one.id, one.name)));
            if part.next.is_none() {
                break;
            }
            page.after = part.next;
        }
        assert_eq!(names, ["first", "last"]);
        assert_eq!(told, [(odd.to_string(), "odd".to_owned())]);
    }
}
