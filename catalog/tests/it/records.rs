use std::collections::BTreeMap;

use serde_json::json;
use sluice_catalog::{
    AuditEntry, Catalog, Destination, ErrorKind, Instance, Keep, Missed, NewPoint, Page, Policy,
    Project, ProjectId, Rule, Schedule, Sealer, Source, Visible, When,
};

use crate::support::{Lab, on_both};

on_both! {
    names_are_unique_within_a_project
    what_repositories_know_by_name_keeps_it
    what_belongs_to_others_is_not_there
    a_change_based_on_an_old_revision_loses
    pages_show_everything_once
    the_catalog_stays_when_it_is_closed
    several_servers_may_open_an_empty_database_at_once
    secrets_come_back_only_with_the_key
    the_audit_chain_shows_what_was_changed
    policies_find_instances_by_tag_and_by_hand
    a_restore_point_is_noted_once
}

pub fn instance(tags: &[&str]) -> Instance {
    Instance {
        description: "ä'\"".into(),
        source: Source::Device { path: "/dev/vda".into() },
        tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        node: None,
        manager: None,
        cluster: None,
        host: None,
        paused: false,
        present: true,
        block_size: None,
    }
}

fn destination() -> Destination {
    Destination {
        description: String::new(),
        url: "/backup".into(),
        environment: BTreeMap::new(),
        maintenance: vec![],
        visible_to: None,
    }
}

pub async fn project(catalog: &Catalog, name: &str) -> ProjectId {
    let mut tx = catalog.begin().await.unwrap();
    let project = tx.insert(None, name, Project::default(), 7).await.unwrap();
    tx.commit().await.unwrap();
    project.id
}

/// `PROJECT.INSTANCE` names an instance in repositories: it must name one, and for good.
async fn what_repositories_know_by_name_keeps_it(Lab { catalog, .. }: Lab) {
    let shop = project(&catalog, "shop").await;
    let mut tx = catalog.begin().await.unwrap();
    for name in ["shop.web", "a/b", "a b", "a@b", "ä", "", &"x".repeat(65)] {
        let refused = tx.insert(None, name, Project::default(), 7).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{name}");
    }
    let mut made = tx.insert(Some(shop), "web.1", instance(&[]), 7).await.unwrap();
    made.body.description = "changed".into();
    tx.update(&mut made, 8).await.unwrap();
    made.name = "web.2".into();
    assert_eq!(tx.update(&mut made, 9).await.unwrap_err().kind(), ErrorKind::Invalid);
    let mut record = tx.get::<Project>(shop, &Visible::All).await.unwrap();
    record.name = "market".into();
    assert_eq!(tx.update(&mut record, 9).await.unwrap_err().kind(), ErrorKind::Invalid);
    let mut store = tx.insert(Some(shop), "store", destination(), 7).await.unwrap();
    store.name = "depot".into();
    tx.update(&mut store, 9).await.unwrap();
}

async fn names_are_unique_within_a_project(Lab { catalog, .. }: Lab) {
    let (one, two) = (project(&catalog, "one").await, project(&catalog, "two").await);
    let mut tx = catalog.begin().await.unwrap();
    let made = tx.insert(Some(one), "web", instance(&[]), 7).await.unwrap();
    tx.insert(Some(two), "web", instance(&[]), 7).await.unwrap();
    assert_eq!(tx.get(made.id, &Visible::All).await.unwrap(), made);
    assert_eq!(tx.find(Some(one), "web").await.unwrap(), Some(made));
    assert_eq!(tx.find::<Instance>(None, "web").await.unwrap(), None);
    tx.commit().await.unwrap();
    let mut tx = catalog.begin().await.unwrap();
    let again = tx.insert(Some(one), "web", instance(&[]), 7).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);
    drop(tx);
    let mut tx = catalog.begin().await.unwrap();
    for bad in ["", " a", "a\n", &"a".repeat(129)] {
        let error = tx.insert(Some(one), bad, instance(&[]), 7).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{bad:?}");
    }
}

async fn what_belongs_to_others_is_not_there(Lab { catalog, .. }: Lab) {
    let (one, two) = (project(&catalog, "one").await, project(&catalog, "two").await);
    let mut tx = catalog.begin().await.unwrap();
    let theirs = tx.insert(Some(two), "web", instance(&[]), 7).await.unwrap();
    let shared = tx.insert(None, "store", destination(), 7).await.unwrap();
    let hidden = tx.insert(Some(two), "store", destination(), 7).await.unwrap();
    let mine = Visible::projects([one]);
    let missing = tx.get::<Instance>(theirs.id, &mine).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(tx.list::<Instance>(&mine, &Page::default()).await.unwrap().is_empty());
    let seen = tx.list::<Destination>(&mine, &Page::default()).await.unwrap();
    assert_eq!(seen, std::slice::from_ref(&shared), "what belongs to nobody is for all");
    assert!(
        tx.get::<Destination>(shared.id, &mine).await.is_ok()
            && tx.get::<Destination>(hidden.id, &mine).await.is_err()
    );
    let projects = tx.list::<Project>(&mine, &Page::default()).await.unwrap();
    assert_eq!(projects.iter().map(|p| p.id).collect::<Vec<_>>(), [one]);
    assert!(tx.get::<Project>(one, &mine).await.is_ok());
    assert!(tx.get::<Project>(two, &mine).await.is_err());
    let nobody = Visible::projects([]);
    assert!(tx.list::<Project>(&nobody, &Page::default()).await.unwrap().is_empty());
}

async fn a_change_based_on_an_old_revision_loses(Lab { catalog, .. }: Lab) {
    let mut tx = catalog.begin().await.unwrap();
    let mut first = tx.insert(None, "store", destination(), 7).await.unwrap();
    let mut second = first.clone();
    first.body.url = "/first".into();
    tx.update(&mut first, 8).await.unwrap();
    assert_eq!((first.revision, first.updated_ms), (2, 8));
    second.body.url = "/second".into();
    assert_eq!(tx.update(&mut second, 9).await.unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(tx.get(first.id, &Visible::All).await.unwrap(), first);
    tx.delete::<Destination>(first.id).await.unwrap();
    let gone = tx.delete::<Destination>(first.id).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

async fn pages_show_everything_once(Lab { catalog, .. }: Lab) {
    let own = project(&catalog, "one").await;
    let mut tx = catalog.begin().await.unwrap();
    for number in 0..25 {
        tx.insert(Some(own), &format!("vm-{number}"), instance(&[]), number).await.unwrap();
    }
    let (mut seen, mut page) = (Vec::new(), Page { after: None, limit: 10 });
    loop {
        let part = tx.list::<Instance>(&Visible::All, &page).await.unwrap();
        let Some(last) = part.last() else { break };
        page.after = Some(last.id.to_string());
        seen.extend(part.into_iter().map(|record| record.name));
    }
    assert_eq!(seen, (0..25).map(|n| format!("vm-{n}")).collect::<Vec<_>>());
}

async fn the_catalog_stays_when_it_is_closed(Lab { catalog, url, _folder: _kept }: Lab) {
    let own = project(&catalog, "one").await;
    let mut tx = catalog.begin().await.unwrap();
    tx.insert(None, "dropped", Project::default(), 7).await.unwrap();
    drop(tx);
    catalog.close().await;
    let again = Catalog::open(&url).await.unwrap();
    let mut tx = again.read().await.unwrap();
    let projects = tx.list::<Project>(&Visible::All, &Page::default()).await.unwrap();
    assert_eq!(projects.iter().map(|p| p.id).collect::<Vec<_>>(), [own]);
}

async fn several_servers_may_open_an_empty_database_at_once(Lab { catalog, url, .. }: Lab) {
    // Back to nothing: what a server finds the first time.
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let words = |line: &'_ str| line.split([' ', '(']).nth(2).map(str::to_owned);
    let made = text.lines().filter(|line| line.starts_with("CREATE TABLE"));
    // What refers to others was made after them.
    let names: Vec<String> = made.filter_map(words).chain(["settings".to_owned()]).rev().collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    sluice_catalog_drop(&catalog, &url, &names).await;
    let opened: Vec<_> = (0..4).map(|_| tokio::spawn(open(url.clone()))).collect();
    for one in opened {
        one.await.unwrap();
    }
    project(&Catalog::open(&url).await.unwrap(), "one").await;
}

async fn open(url: String) {
    Catalog::open(&url).await.unwrap();
}

async fn sluice_catalog_drop(catalog: &Catalog, url: &str, names: &[&str]) {
    catalog.close().await;
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(url).await.unwrap();
    for name in names {
        let sql = sqlx::AssertSqlSafe(format!("DROP TABLE {name}"));
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    pool.close().await;
}

async fn secrets_come_back_only_with_the_key(Lab { catalog, .. }: Lab) {
    let sealer = Sealer::new(&[1; 32]);
    let name = || "SLUICE_PASSPHRASE".to_owned();
    let mut tx = catalog.begin().await.unwrap();
    let secrets = [(name(), "hush".to_owned().into())].into();
    tx.set_secrets(&sealer, "d1", &secrets).await.unwrap();
    assert_eq!(tx.secret_names("d1").await.unwrap(), [name()]);
    assert_eq!(*tx.secrets(&sealer, "d1").await.unwrap()[&name()], "hush");
    let other = tx.secrets(&Sealer::new(&[2; 32]), "d1").await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Damaged);
    assert!(tx.secrets(&sealer, "d2").await.unwrap().is_empty());
    let odd = [("LD_PRELOAD".to_owned(), "x".to_owned().into())].into();
    assert_eq!(tx.set_secrets(&sealer, "d1", &odd).await.unwrap_err().kind(), ErrorKind::Invalid);
}

async fn the_audit_chain_shows_what_was_changed(Lab { catalog, url, .. }: Lab) {
    let own = project(&catalog, "one").await;
    for number in 0..5 {
        let mut tx = catalog.begin().await.unwrap();
        let entry = AuditEntry {
            actor: "anna".into(),
            action: "thing.change",
            object: format!("thing-{number}"),
            project: (number % 2 == 0).then_some(own),
            detail: json!({"number": number}),
        };
        tx.audit(entry, number).await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut tx = catalog.read().await.unwrap();
    assert_eq!(tx.audit_verify().await.unwrap(), (5, None));
    let mine = Visible::projects([own]);
    let seen = tx.audit_list(&mine, 0, 10).await.unwrap();
    assert_eq!(seen.iter().map(|row| row.seq).collect::<Vec<_>>(), [1, 3, 5]);
    drop(tx);
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(&url).await.unwrap();
    let change = "UPDATE audit SET actor = 'otto' WHERE seq = 3";
    sqlx::query(change).execute(&pool).await.unwrap();
    pool.close().await;
    let mut tx = catalog.read().await.unwrap();
    assert_eq!(tx.audit_verify().await.unwrap().1.map(|flaw| flaw.seq), Some(3));
}

fn policy(tags: &[&str], destination: sluice_catalog::DestinationId) -> Policy {
    let when = When::Every { seconds: 3600 };
    Policy {
        description: String::new(),
        paused: false,
        priority: 50,
        assign: sluice_catalog::Assign {
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            ..sluice_catalog::Assign::default()
        },
        objectives: sluice_catalog::Objectives::default(),
        tests: Vec::new(),
        snapshots: Vec::new(),
        visible_to: None,
        rules: vec![Rule {
            name: "daily".into(),
            destination,
            backup_type: sluice_catalog::BackupType::default(),
            keep: Keep::default(),
            verify: Vec::new(),
            from_snapshot: false,
            copies: Vec::new(),
            hooks: sluice_catalog::Hooks::default(),
            schedules: vec![Schedule {
                name: "hourly".into(),
                paused: false,
                when,
                backup_type: None,
            }],
        }],
    }
}

async fn policies_find_instances_by_tag_and_by_hand(Lab { catalog, .. }: Lab) {
    let (one, two) = (project(&catalog, "one").await, project(&catalog, "two").await);
    let mut tx = catalog.begin().await.unwrap();
    let store = tx.insert(None, "store", destination(), 7).await.unwrap();
    let gold = tx.insert(Some(one), "gold", instance(&["gold"]), 7).await.unwrap();
    let plain = tx.insert(Some(one), "plain", instance(&[]), 8).await.unwrap();
    let other = tx.insert(Some(two), "other", instance(&["gold"]), 9).await.unwrap();
    let all = tx.insert(None, "all", policy(&["gold"], store.id), 7).await.unwrap();
    let own = tx.insert(Some(one), "own", policy(&["gold"], store.id), 7).await.unwrap();
    tx.assign(own.id, plain.id).await.unwrap();
    tx.assign(own.id, plain.id).await.unwrap();
    let names = |found: Vec<sluice_catalog::Record<Instance>>| {
        found.into_iter().map(|record| record.name).collect::<Vec<_>>()
    };
    let found = tx.instances_of(&all, &Visible::All).await.unwrap();
    assert_eq!(names(found), ["gold", "other"]);
    let mine = Visible::projects([two]);
    let found = tx.instances_of(&all, &mine).await.unwrap();
    assert_eq!(names(found), ["other"], "others are not told of");
    let found = tx.instances_of(&own, &Visible::All).await.unwrap();
    assert_eq!(names(found), ["gold", "plain"]);
    let stranger = tx.insert(Some(two), "own", policy(&["gold"], store.id), 8).await.unwrap();
    for instance in [&gold, &plain, &other] {
        let mut told = Vec::new();
        for policy in [&all, &own, &stranger] {
            let of = tx.instances_of(policy, &Visible::All).await.unwrap();
            told.extend(of.iter().any(|found| found.id == instance.id).then_some(policy.id));
        }
        let found = tx.policies_of(instance).await.unwrap();
        let found: Vec<_> = found.into_iter().map(|policy| policy.id).collect();
        assert_eq!(found, told, "the other way round it is the same: {}", instance.name);
    }
    assert!(tx.unassign(own.id, plain.id).await.unwrap());
    assert!(!tx.unassign(own.id, plain.id).await.unwrap());
    let changes = tx.policy_changes().await.unwrap();
    let mark = |marks: &BTreeMap<_, u64>| marks.get(&(own.id, "daily/hourly".to_owned())).copied();
    assert!(tx.move_mark::<Policy>(own.id, "daily/hourly", None, 9).await.unwrap());
    assert_eq!(mark(&tx.marks::<Policy>().await.unwrap()), Some(9));
    let missed = Missed {
        policy: own.id,
        schedule: "daily/hourly".into(),
        instance: None,
        project: Some(one),
        reason: "too-late".into(),
        first_ms: 3,
        last_ms: 5,
        times: 2,
    };
    tx.add_missed(&missed).await.unwrap();
    tx.add_missed(&Missed { first_ms: 7, last_ms: 9, times: 1, ..missed.clone() }).await.unwrap();
    let both = Missed { last_ms: 9, times: 3, ..missed };
    assert_eq!(tx.missed(&Visible::All, 9).await.unwrap(), [both]);
    assert!(tx.missed(&mine, 0).await.unwrap().is_empty(), "others are not told");
    assert!(tx.missed(&Visible::All, 10).await.unwrap().is_empty());
    assert_eq!(tx.policy_changes().await.unwrap(), changes, "no policy was changed");
    tx.delete::<Policy>(own.id).await.unwrap();
    assert_ne!(tx.policy_changes().await.unwrap(), changes);
    assert_eq!(mark(&tx.marks::<Policy>().await.unwrap()), None);
    assert!(tx.missed(&Visible::All, 0).await.unwrap().is_empty());
    tx.get::<Instance>(gold.id, &mine).await.unwrap_err();
    tx.get::<Instance>(other.id, &mine).await.unwrap();
}

async fn a_restore_point_is_noted_once(Lab { catalog, .. }: Lab) {
    let own = project(&catalog, "one").await;
    let mut tx = catalog.begin().await.unwrap();
    let store = tx.insert(None, "store", destination(), 7).await.unwrap();
    let web = tx.insert(Some(own), "web", instance(&[]), 7).await.unwrap();
    let new = NewPoint {
        destination: store.id,
        task: None,
        point: "k3v8".into(),
        taken_ms: 5,
        image_bytes: u64::from(u32::MAX) * 8,
        new_bytes: 2,
        stored_bytes: 1,
    };
    tx.add_point(web.id, Some(own), &new, 7).await.unwrap();
    tx.add_point(web.id, Some(own), &new, 8).await.unwrap();
    let found = tx.points(&Visible::All, Some(web.id), &Page::default()).await.unwrap();
    assert_eq!(found.iter().map(|p| &p.new).collect::<Vec<_>>(), [&new]);
    let nobody = Visible::projects([]);
    assert!(tx.point(found[0].id, &nobody).await.is_err());
    assert_eq!(tx.points_removed(store.id, &["k3v8".into()], 9).await.unwrap(), 1);
    assert_eq!(tx.points_removed(store.id, &["k3v8".into()], 9).await.unwrap(), 0);
    assert!(tx.points(&Visible::All, None, &Page::default()).await.unwrap().is_empty());
    assert_eq!(tx.point(found[0].id, &Visible::All).await.unwrap().removed_ms, Some(9));
}
