//! Which indexes statements follow on what grows for ever: tasks and restore points.
//!
//! SQLite keeps no statistics here. Of several indexes that fit, it takes the one that binds the
//! most columns, and of equals any: so an index that is added for a list can take over a statement
//! of the scheduler, which then reads all that a node or a destination ever did, each second. Every
//! statement is listed here with what it may follow; what must not be followed is written as
//! `column || ''`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::db::{Columns, query};
use crate::id::{DestinationId, InstanceId, NodeId, PointId, PolicyId, ProjectId, TaskId};
use crate::model::grant::{Resource, Scope};
use crate::model::history::Within;
use crate::model::point::{NewPoint, Point};
use crate::model::proof::{BackupType, VerifyDepth};
use crate::model::snapshot::{InstanceSnapshot, NewSnapshot, SnapshotState};
use crate::model::task::{LeaseMark, TaskState};
use crate::{Catalog, Checked, InventoryId, SnapshotId, Tx, Visible};

/// What each row has an index for by itself.
const BY_ID: [&str; 2] = ["sqlite_autoindex_tasks_1", "sqlite_autoindex_points_1"];
/// That of restore points by where they are and their names.
const BY_NAME: &str = "sqlite_autoindex_points_2";
/// Functions that others here call, and the one that fills a new database.
const WITHIN_OTHERS: [&str; 5] =
    ["take_back", "last_good_again", "unprove", "restore", "end_unreadable"];

/// The tables of a statement that are looked at here.
fn tables(sql: &str) -> bool {
    let verbs = ["FROM", "JOIN", "UPDATE"];
    let words: Vec<&str> = sql.split([' ', '(', ')']).filter(|word| !word.is_empty()).collect();
    words.windows(2).any(|two| verbs.contains(&two[0]) && ["tasks", "points"].contains(&two[1]))
}

/// What a line of a statement's plan follows; `SCAN` before it where all of it is read. Nothing of
/// other tables.
fn follows(line: &str, sql: &str) -> Option<String> {
    let (verb, rest) = line.split_once(' ')?;
    if !["SEARCH", "SCAN"].contains(&verb) {
        return None;
    }
    let table = rest.split(' ').next()?;
    let all = if verb == "SCAN" { "SCAN " } else { "" };
    let own = ["tasks", "points"]
        .iter()
        .any(|own| table == *own || sql.contains(&format!(" {own} {table} ")));
    match rest.split_once("INDEX ").and_then(|(_, index)| index.split(' ').next()) {
        Some(index) if index.contains("tasks") || index.contains("points") => {
            Some(format!("{all}{index}"))
        }
        None if own => Some(format!("{all}{table}")),
        _ => None,
    }
}

/// Tells when what was asked would follow anything else than it may, or not all of it.
async fn check(tx: &mut Tx, name: &str, may: &[&str]) -> Option<String> {
    let asked: BTreeSet<String> = std::mem::take(&mut tx.asked).into_iter().collect();
    let (mut found, mut plans) = (BTreeSet::new(), Vec::new());
    for sql in asked.into_iter().filter(|sql| tables(sql)) {
        let rows = tx.all(query(format!("EXPLAIN QUERY PLAN {sql}"))).await.unwrap();
        let told: Vec<String> = rows.iter().map(|row| row.text("detail").unwrap()).collect();
        let own = told.iter().filter_map(|line| follows(line, &sql));
        found.extend(own.filter(|one| !BY_ID.contains(&one.as_str())));
        plans.push((sql, told));
    }
    tx.asked.clear();
    let may: BTreeSet<String> = may.iter().map(|one| (*one).to_owned()).collect();
    (found != may).then(|| format!("{name} follows {found:?}, and not {may:?}: {plans:#?}"))
}

/// Asks, and looks what that follows. What comes of it is of no interest: the database is empty.
macro_rules! follow {
    ($tx:ident, $told:ident: $($name:ident($($value:expr),*) => [$($may:expr),*];)*) => { $(
        $tx.asked.clear();
        let _ = $tx.$name($($value),*).await;
        $told.flaws.extend(check($tx, stringify!($name), &[$($may),*]).await);
        $told.names.insert(stringify!($name).to_owned());
    )* };
}

/// What was looked at.
#[derive(Default)]
struct Told {
    /// The functions.
    names: BTreeSet<String>,
    /// What is wrong.
    flaws: Vec<String>,
}

fn snapshot() -> InstanceSnapshot {
    let new = NewSnapshot {
        project: None,
        instance: InstanceId::new(1),
        policy: None,
        rule: String::new(),
        task: TaskId::new(1),
        expires_ms: 0,
    };
    InstanceSnapshot {
        id: SnapshotId::new(1),
        new,
        node: None,
        state: SnapshotState::Ready,
        made_ms: 0,
        images: Vec::new(),
        message: String::new(),
        revision: 1,
        created_ms: 0,
        updated_ms: 0,
    }
}

fn point() -> Point {
    Point {
        id: PointId::new(1),
        instance: InstanceId::new(1),
        project: None,
        new: NewPoint {
            destination: DestinationId::new(1),
            task: None,
            point: String::new(),
            taken_ms: 1,
            image_bytes: 0,
            new_bytes: 0,
            stored_bytes: 0,
        },
        copy_of: None,
        backup_type: None,
        proof: None,
        removed_ms: None,
    }
}

async fn tasks(tx: &mut Tx, told: &mut Told) {
    let (id, node, instance) = (TaskId::new(1), NodeId::new(1), InstanceId::new(1));
    let (destination, policy) = (DestinationId::new(1), PolicyId::new(1));
    let (project, all) = (ProjectId::new(1), Visible::All);
    let own = Visible::projects([project]);
    let mark = LeaseMark { task: id, attempt: 1, until_ms: 1 };
    let lease = (id, node, 1);
    let within = Within { from_ms: 1, until_ms: 2, project: None };
    let done = TaskState::Succeeded;
    follow! { tx, told:
        liveness() => ["tasks_by_node"];
        task(id, &all) => [];
        any_waiting(1) => ["tasks_waiting"];
        leases() => ["tasks_by_state_id"];
        lease(id, node, 1, 2) => [];
        renew(id, node, 1, None, 2) => [];
        finish(lease, done, &Value::Null, "", None, 1) => [];
        cancel(id, 1) => [];
        reclaim(&[mark], 1) => [];
        reclaim_node(node, 1) => ["tasks_by_node"];
        end_of_no_node(1) => ["tasks_waiting"];
        set_size(id, 1) => [];
        stop_with(id, "") => [];
        line() => ["tasks_by_state_id"];
        instances_in_line() => ["tasks_by_state_id"];
        inventories_in_line() => ["tasks_waiting"];
        set_start_by(id, 1) => [];
        any_window_over(1) => ["tasks_too_late"];
        end_late("", 1) => ["tasks_too_late"];
        refuse(id, "", 1) => [];
        hand_back(lease) => [];
        still_active(instance, policy, destination) => ["tasks_by_instance"];
        set_from(id, destination) => [];
        copy_waits(instance, (destination, destination)) => ["tasks_by_instance"];
        is_verified(instance, "") => ["tasks_by_instance"];
        is_maintained(destination, "collect") => ["tasks_by_state_id"];
        is_looked_through(InventoryId::new(1), true) => ["tasks_by_state_id"];
        snapshots_to_settle(1) => [];
        snapshot_used(&snapshot()) => ["tasks_by_instance"];
        bind_to_node(id, node) => [];
        imports_to_settle() => [];
        tests_to_settle() => [];
        began(project, Some(instance), "backup", 1) => ["tasks_by_kind"];
        in_use(project, Some(instance)) => ["tasks_by_project_state"];
        tasks_open(&all) => ["tasks_by_state_id"];
        tasks_open(&own) => ["tasks_by_state_id"];
        tasks_ended(&all, 1) => ["tasks_by_finished"];
        tasks_ended(&own, 1) => ["tasks_by_finished"];
        oldest_waiting(1) => ["tasks_waiting"];
        failed_since(1) => ["tasks_by_finished"];
        backups_ended(&all, &within) => ["tasks_by_finished"];
        backups_ended(&own, &within) => ["tasks_by_finished"];
        mean_backups(&all, &within) => [];
        mean_backups(&own, &within) => [];
        forget_ended(1) => ["tasks_by_finished"];
    }
}

async fn points(tx: &mut Tx, told: &mut Told) {
    let (id, instance, destination) = (PointId::new(1), InstanceId::new(1), DestinationId::new(1));
    let (project, all) = (ProjectId::new(1), Visible::All);
    let own = Visible::projects([project]);
    let one = Visible::within([Scope::Resource(Resource::Instance(instance))]);
    let within = Within { from_ms: 1, until_ms: 2, project: None };
    let names: BTreeSet<String> = ["a".to_owned()].into();
    let depth = VerifyDepth::Data;
    let seen = Some(&names);
    let whole = Checked { destination, instance: None, point: None, depth, before_ms: 5, seen };
    let own_only = Checked { instance: Some(instance), ..whole };
    let none = BTreeSet::new();
    // What is left of an instance is told with what was removed at one time.
    let removed = ["points_by_removed", "points_by_instance"];
    follow! { tx, told:
        point(id, &all) => [];
        point_known(destination, "a") => [BY_NAME];
        points_removed(destination, &["a".to_owned()], 1) => [BY_NAME, removed[0], removed[1]];
        points_left((destination, Some(instance)), &none, 1, 1) =>
            ["points_of_instance", removed[0], removed[1]];
        points_left((destination, None), &none, 1, 1) =>
            ["points_of_destination", removed[0], removed[1]];
        point_named(destination, "a") => [BY_NAME];
        set_copy_of(destination, "a", id) => [BY_NAME];
        holders(&point()) => ["points_by_copy"];
        copies_of(&[id]) => ["points_by_copy"];
        copies_left(destination, instance, &none, 1) => ["points_of_instance"];
        first_point_after(instance, destination, 1) => ["points_by_instance"];
        set_backup_type(destination, "a", BackupType::Full) => [BY_NAME];
        set_proofs(whole, &none, 1) => ["points_of_destination", BY_NAME];
        set_proofs(own_only, &none, 1) => ["points_of_instance"];
        set_proofs(Checked { seen: None, ..whole }, &names, 1) => [BY_NAME];
        points_with_id(destination, "a") => ["points_of_destination"];
        damaged_points(&all, None) => ["points_damaged_since"];
        damaged_points(&own, Some(project)) => ["points_damaged_since"];
        damaged_since(1) => ["points_damaged_since"];
        newest_held(&[instance]) => ["points_of_instance", "points_by_instance"];
        newest_points(destination, &[instance]) => ["points_by_instance"];
        proven_of(destination, &[instance]) => ["points_of_instance"];
        last_full(&all, None) => ["SCAN points_full"];
        last_full(&own, Some(project)) => ["SCAN points_full"];
        newest_point(instance, Some(destination), None) => ["points_by_instance"];
        taken(&all, &within) => ["SCAN points_by_instance"];
        taken(&one, &within) => ["points_by_instance"];
    }
}

/// All files of a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The functions that have a statement on tasks or restore points.
fn functions() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let mut name = String::new();
        for line in joined(code).lines().filter(|line| !line.trim_start().starts_with("//")) {
            let after = line.split_once("fn ").filter(|(before, _)| !before.contains('"'));
            if let Some((_, rest)) = after {
                name = rest.split(['(', '<']).next().unwrap_or_default().to_owned();
            }
            if line.contains('"') && tables(&line.replace('"', " ")) {
                found.insert(name.clone());
            }
        }
    }
    found
}

/// Texts that are continued in the next line, in one.
fn joined(code: &str) -> String {
    let lines = code.lines().map(|line| match line.strip_suffix('\\') {
        Some(begun) => format!("{begun} "),
        None => format!("{line}\n"),
    });
    lines.collect()
}

#[tokio::test]
async fn every_statement_on_what_grows_for_ever_follows_what_it_is_to() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("catalog.sqlite").display());
    let catalog = Catalog::open(&url).await.unwrap();
    let (mut tx, mut told) = (catalog.begin().await.unwrap(), Told::default());
    tasks(&mut tx, &mut told).await;
    points(&mut tx, &mut told).await;
    assert!(told.flaws.is_empty(), "{}", told.flaws.join("\n"));
    let known = |name: &&String| !WITHIN_OTHERS.contains(&name.as_str());
    let all = functions();
    assert!(all.len() > 50, "nothing was found: {all:?}");
    let missing: Vec<&String> = all.difference(&told.names).filter(known).collect();
    assert!(missing.is_empty(), "say in this file which indexes these follow: {missing:?}");
}
