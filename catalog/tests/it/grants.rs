use std::collections::BTreeSet;

use sluice_catalog::{
    DestinationId, Grant, Held, Instance, InstanceId, NewGroup, NewPoint, NewTask, Page, Project,
    ProjectId, Record, Resource, Role, Scope, TaskFilter, Tx, Visible,
};

use crate::records::{instance, project};
use crate::support::{Lab, on_both};

on_both! {
    roles_on_resources_are_kept_beside_the_others_and_end_with_them
    lists_show_what_is_granted_by_full_pages
    what_is_counted_is_what_is_granted
}

fn on(role: Role, instance: InstanceId) -> Grant {
    Grant::resource(role, Resource::Instance(instance))
}

async fn roles_on_resources_are_kept_beside_the_others_and_end_with_them(lab: Lab) {
    let shop = project(&lab.catalog, "shop").await;
    let mut tx = lab.catalog.begin().await.unwrap();
    let web = tx.insert(Some(shop), "web", instance(&[]), 7).await.unwrap().id;
    let db = tx.insert(Some(shop), "db", instance(&[]), 7).await.unwrap().id;
    let anna = tx.add_user("anna", "hash", 7).await.unwrap().id;
    let own =
        vec![Grant::project(Role::Viewer, shop), on(Role::Manager, db), on(Role::Viewer, web)];
    tx.set_grants(anna, &own).await.unwrap();
    let sorted = |mut grants: Vec<Grant>| {
        grants.sort_by_key(|grant| (grant.scope, grant.role));
        grants
    };
    assert_eq!(sorted(tx.grants(anna).await.unwrap()), sorted(own.clone()));
    let group = |grants| NewGroup { name: "team".into(), members: vec![anna], grants };
    let team = tx.add_group(&group(vec![on(Role::Admin, web)]), 7).await.unwrap();
    tx.set_mapped(anna, &[on(Role::Operator, web)], &BTreeSet::new()).await.unwrap();
    let all = tx.all_grants(anna).await.unwrap();
    let of_web: BTreeSet<Role> = all
        .iter()
        .filter(|grant| grant.scope == Scope::Resource(Resource::Instance(web)))
        .map(|grant| grant.role)
        .collect();
    assert_eq!(of_web, [Role::Viewer, Role::Operator, Role::Admin].into());
    // Whoever administers one instance does not administer the system.
    assert_eq!(tx.count_administrators().await.unwrap(), 0);
    tx.delete::<Instance>(web).await.unwrap();
    let left = vec![Grant::project(Role::Viewer, shop), on(Role::Manager, db)];
    assert_eq!(sorted(tx.all_grants(anna).await.unwrap()), sorted(left));
    assert_eq!(tx.group(team.id).await.unwrap().grants, []);
    // What is gone gives no role any more.
    assert!(!tx.is_there(Resource::Instance(web)).await.unwrap());
    tx.set_mapped(anna, &[on(Role::Operator, web)], &BTreeSet::new()).await.unwrap();
    tx.set_grants(anna, &[on(Role::Viewer, db)]).await.unwrap();
    assert_eq!(tx.all_grants(anna).await.unwrap(), [on(Role::Viewer, db)]);
    let new = group(vec![on(Role::Admin, db), Grant::system(Role::Viewer)]);
    let changed = tx.change_group(team.id, 1, &new, 8).await.unwrap();
    assert_eq!(sorted(changed.grants), sorted(new.grants));
    tx.delete_group(team.id).await.unwrap();
    tx.delete_user(anna).await.unwrap();
    tx.commit().await.unwrap();
}

struct Shops {
    shop: ProjectId,
    destination: DestinationId,
    /// Of the shop and of another project, in turns.
    instances: Vec<Record<Instance>>,
}

async fn shops(lab: &Lab) -> Shops {
    let shop = project(&lab.catalog, "shop").await;
    let other = project(&lab.catalog, "other").await;
    let mut tx = lab.catalog.begin().await.unwrap();
    let (mut instances, destination) = (Vec::new(), DestinationId::new(3));
    for number in 0..8 {
        let of = if number % 2 == 0 { shop } else { other };
        let name = format!("web-{number}");
        let made = tx.insert(Some(of), &name, instance(&[]), 10 + number).await.unwrap();
        let point = NewPoint {
            destination,
            task: None,
            point: format!("{of}.{name}@1"),
            taken_ms: 5,
            image_bytes: 1,
            new_bytes: 1,
            stored_bytes: 1,
        };
        tx.add_point(made.id, Some(of), &point, 20 + number).await.unwrap();
        task(&mut tx, Some(of), (Some(made.id), destination), 20 + number).await;
        let held = Held {
            instance: made.id,
            destination,
            project: Some(of),
            policy: None,
            stored_bytes: 1 << number,
            front_end_bytes: 1 << number,
            last_good_ms: 50,
        };
        tx.set_held(&held, 60).await.unwrap();
        instances.push(made);
    }
    task(&mut tx, Some(other), (None, destination), 40).await;
    tx.commit().await.unwrap();
    Shops { shop, destination, instances }
}

async fn task(
    tx: &mut Tx,
    project: Option<ProjectId>,
    (instance, destination): (Option<InstanceId>, DestinationId),
    now_ms: u64,
) {
    let new = NewTask {
        project,
        instance,
        policy: None,
        destination: Some(destination),
        wanted_node: None,
        kind: if instance.is_some() { "backup" } else { "collect" }.into(),
        priority: 50,
        due_key: None,
        max_attempts: 1,
        not_before_ms: 0,
        spec: serde_json::Value::Null,
    };
    tx.add_task(&new, now_ms).await.unwrap().unwrap();
}

async fn lists_show_what_is_granted_by_full_pages(lab: Lab) {
    let Shops { shop, destination, instances } = shops(&lab).await;
    let ids: Vec<InstanceId> = instances.iter().map(|one| one.id).collect();
    let some = |numbers: &[usize]| {
        let on = |number: &usize| Scope::Resource(Resource::Instance(ids[*number]));
        numbers.iter().map(on).collect::<Vec<_>>()
    };
    let mut mixed = some(&[1]);
    mixed.push(Scope::Project(shop));
    let mut tx = lab.catalog.read().await.unwrap();
    for (scopes, seen) in [
        (some(&[1, 4, 7]), vec![1, 4, 7]),
        (mixed, vec![0, 1, 2, 4, 6]),
        (vec![], vec![]),
        (vec![Scope::System], (0..8).collect()),
    ] {
        let visible = Visible::within(scopes.clone());
        let expected: Vec<InstanceId> = seen.iter().map(|number| ids[*number]).collect();
        let (mut found, mut page) = (Vec::new(), Page { after: None, limit: 2 });
        loop {
            let part = tx.list::<Instance>(&visible, &page).await.unwrap();
            let Some(last) = part.last() else { break };
            page.after = Some(last.id.to_string());
            assert!(part.len() == 2 || found.len() + part.len() == expected.len(), "{scopes:?}");
            found.extend(part.iter().map(|one| one.id));
        }
        assert_eq!(found, expected, "{scopes:?}");
        for (number, id) in ids.iter().enumerate() {
            let told = tx.get::<Instance>(*id, &visible).await;
            assert_eq!(told.is_ok(), seen.contains(&number), "{scopes:?} {number}");
        }
        let points = tx.points(&visible, None, &Page::default()).await.unwrap();
        assert_eq!(points.iter().map(|one| one.instance).collect::<Vec<_>>(), expected);
        for point in tx.points(&Visible::All, None, &Page::default()).await.unwrap() {
            let told = tx.point(point.id, &visible).await;
            assert_eq!(told.is_ok(), expected.contains(&point.instance), "{scopes:?}");
        }
        let tasks = tx.tasks(&visible, &TaskFilter::default(), &Page::default()).await.unwrap();
        let of = tasks.iter().rev().filter_map(|one| one.new.instance);
        assert_eq!(of.collect::<Vec<_>>(), expected, "{scopes:?}");
        for task in &tasks {
            assert!(tx.task(task.id, &visible).await.is_ok());
        }
    }
    let visible = Visible::within([Scope::Resource(Resource::Destination(destination))]);
    let seen = tx.tasks(&visible, &TaskFilter::default(), &Page::default()).await.unwrap();
    let kinds: Vec<&str> = seen.iter().map(|task| task.new.kind.as_str()).collect();
    assert_eq!(kinds, ["collect"], "what concerns all of it, and no backup of an instance");
    assert!(tx.list::<Project>(&visible, &Page::default()).await.unwrap().is_empty());
    assert!(tx.points(&visible, None, &Page::default()).await.unwrap().is_empty());
}

async fn what_is_counted_is_what_is_granted(lab: Lab) {
    let Shops { shop, instances, .. } = shops(&lab).await;
    let one = Scope::Resource(Resource::Instance(instances[3].id));
    let mut tx = lab.catalog.read().await.unwrap();
    for (scopes, total, bytes) in [
        (vec![one], 1, 8),
        (vec![one, Scope::Project(shop)], 5, 8 + 1 + 4 + 16 + 64),
        (vec![Scope::System], 8, 255),
    ] {
        let visible = Visible::within(scopes.clone());
        assert_eq!(tx.protected(&visible, 1).await.unwrap().total, total, "{scopes:?}");
        assert_eq!(tx.held(&visible).await.unwrap().len() as u64, total, "{scopes:?}");
        assert_eq!(tx.front_end_bytes(&visible).await.unwrap(), bytes, "{scopes:?}");
        let open = tx.tasks_open(&visible).await.unwrap();
        let backups = open.iter().find(|count| count.kind == "backup").unwrap();
        assert_eq!(backups.tasks, total, "{scopes:?}");
        let stored: u64 =
            tx.at_destinations(&visible).await.unwrap().iter().map(|at| at.stored_bytes).sum();
        assert_eq!(stored, bytes, "{scopes:?}");
    }
}
