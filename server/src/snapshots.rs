//! Snapshots at their sources: asked for by hand or by rules, kept as these say, and removed.
//!
//! ```text
//!   request ─► task snapshot ─► ready ─► its time is over, or somebody wants so
//!                  │ failed, cancelled          │
//!                  └────────► removing ◄────────┘ ─► task unsnapshot ─► gone
//! ```
//!
//! What a task did is noted when it is told; what no task told is found by [`Keeper::tick`], so
//! nothing is left wherever somebody died. A snapshot has the name of its record at the source.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use axum::http::StatusCode;
use sluice_catalog::{
    BackupType, DestinationId, ErrorKind, Instance, InstanceSnapshot, NewSnapshot, NewTask, Node,
    NodeConfig, NodeId, Page, Policy, PolicyId, Record, SnapshotFilter, SnapshotId, SnapshotImage,
    SnapshotState, Source, Task, TaskState, Tx, Visible,
};
use sluice_node_api::{SnapshotOrder, SnapshotUse, TaskSpec, Work};

use crate::api::policies::EVERYTHING;
use crate::complaint::{apart, go_on};
use crate::dispatch::backup_spec;
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// Attempts of a task that makes one, and of one that removes one.
const ATTEMPTS: u32 = 3;
const REMOVING_ATTEMPTS: u32 = 5;
/// Removing goes behind backups, and before nothing.
const REMOVING_PRIORITY: u32 = 40;
/// What could not be removed is tried again after so many milliseconds.
const AGAIN_MS: u64 = 600_000;
/// How often is looked for snapshots that are too old, in milliseconds.
const LOOK_MS: u64 = 60_000;
/// Snapshots that are removed in one transaction: others want to write as well.
const AT_ONCE: usize = 200;
/// Why a snapshot is removed that its rule keeps no more.
const NOT_KEPT: &str = "its rule keeps it no more";
/// The kind of task that a node knows which can make snapshots.
pub(crate) const KIND: &str = "snapshot";

/// What one is called where it cannot be read.
const WORD: &str = "snapshot";

/// By whom a snapshot is wanted, and for how long.
pub(crate) struct By<'a> {
    /// The rule of a policy; nobody's by hand.
    pub(crate) rule: Option<(PolicyId, &'a str)>,
    pub(crate) priority: u32,
    /// When it is removed by itself; 0 when its rule says, or nobody.
    pub(crate) expires_ms: u64,
    pub(crate) due_key: Option<String>,
    /// Whether the commands around it are left out.
    pub(crate) no_hooks: bool,
}

/// Refuses an instance whose kind of source has no snapshots.
pub(crate) fn check(source: &Source) -> Result<()> {
    let why = match source {
        Source::DiskFiles { .. } | Source::Folder { .. } => return Ok(()),
        Source::Device { path } => {
            format!("{path} is a block device: only image files have snapshots")
        }
        Source::Command { .. } => "what a program prints has no snapshot".to_owned(),
    };
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no-snapshots", why))
}

/// Adds a snapshot and the task that makes it; nothing when that was added before.
pub(crate) async fn request(
    tx: &mut Tx,
    instance: &Record<Instance>,
    by: By<'_>,
    now: u64,
) -> Result<Option<(SnapshotId, sluice_catalog::TaskId)>> {
    check(&instance.body.source)?;
    let TaskSpec::Backup { images, folder, .. } =
        backup_spec(tx, instance, BackupType::default()).await?
    else {
        return Ok(None);
    };
    let id = SnapshotId::new(now);
    let order = SnapshotOrder { name: id.to_string(), ..SnapshotOrder::default() };
    let spec = TaskSpec::Snapshot { snapshot: order, images, folder, no_hooks: by.no_hooks };
    let task = NewTask {
        project: instance.project,
        instance: Some(instance.id),
        policy: by.rule.map(|(policy, _)| policy),
        destination: None,
        wanted_node: instance.body.node,
        kind: spec.kind().to_owned(),
        priority: by.priority,
        due_key: by.due_key,
        max_attempts: ATTEMPTS,
        not_before_ms: 0,
        spec: serde_json::to_value(&spec).unwrap_or_default(),
    };
    let Some(task) = tx.add_task(&task, now).await? else { return Ok(None) };
    let new = NewSnapshot {
        project: instance.project,
        instance: instance.id,
        policy: by.rule.map(|(policy, _)| policy),
        rule: by.rule.map(|(_, rule)| rule.to_owned()).unwrap_or_default(),
        task,
        expires_ms: by.expires_ms,
    };
    tx.add_snapshot(id, &new, now).await?;
    Ok(Some((id, task)))
}

/// Begins to remove a snapshot: one that is being made ends first.
pub(crate) async fn release(
    tx: &mut Tx,
    one: &InstanceSnapshot,
    (why, after_ms): (&str, u64),
    now: u64,
) -> Result<()> {
    let task = match tx.task(one.new.task, &EVERYTHING).await {
        Ok(task) => Some(task),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(task) = task.as_ref().filter(|task| !task.state.is_final()) {
        if one.state == SnapshotState::Requested {
            tx.cancel(task.id, now).await?;
        }
        return Ok(());
    }
    let begun = |task: Task| task.node.or(task.new.wanted_node.filter(|_| task.attempt > 0));
    let node = one.node.or(task.and_then(begun));
    // Nobody has begun it.
    let Some(node) = node else {
        return Ok(tx.snapshot_gone(one.id, Some(why), now).await?);
    };
    if !tx.liveness().await?.contains_key(&node) {
        let why = "its node was removed: what there is of it is not known any more";
        return Ok(tx.snapshot_gone(one.id, Some(why), now).await?);
    }
    let folders = folders_of(&one.images);
    let order = SnapshotOrder { name: one.id.to_string(), seen: folders.clone(), folders };
    let spec = TaskSpec::Unsnapshot { snapshot: order };
    let task = NewTask {
        project: one.new.project,
        instance: Some(one.new.instance),
        policy: None,
        destination: None,
        wanted_node: Some(node),
        kind: spec.kind().to_owned(),
        priority: REMOVING_PRIORITY,
        due_key: None,
        max_attempts: REMOVING_ATTEMPTS,
        not_before_ms: after_ms,
        spec: serde_json::to_value(&spec).unwrap_or_default(),
    };
    let part = tx.begin_part().await?;
    let gone = match tx.add_task(&task, now).await? {
        Some(task) => tx.snapshot_goes(one, (node, task), why, now).await?,
        None => false,
    };
    match gone {
        true => Ok(tx.end_part(part).await?),
        // Somebody else has seen to it since it was read.
        false => Ok(tx.undo_part(part).await?),
    }
}

/// The folders in which images lie: FOLDER/SNAPSHOT/IMAGE/FILE.
fn folders_of(images: &[SnapshotImage]) -> Vec<String> {
    let folder = |image: &SnapshotImage| {
        Path::new(&image.path).ancestors().nth(3).and_then(Path::to_str).map(str::to_owned)
    };
    let mut folders: Vec<String> = images.iter().filter_map(folder).collect();
    folders.dedup();
    folders
}

/// A task has ended for good. `document` is what it told last.
pub(crate) async fn task_ended(
    tx: &mut Tx,
    task: &Task,
    document: &serde_json::Value,
    now: u64,
) -> Result<()> {
    let done = matches!(task.state, TaskState::Succeeded | TaskState::Warnings);
    match serde_json::from_value::<TaskSpec>(task.new.spec.clone()) {
        Ok(TaskSpec::Snapshot { snapshot, .. }) => {
            let Ok(id) = snapshot.name.parse::<SnapshotId>() else { return Ok(()) };
            let images: Option<Vec<SnapshotImage>> =
                serde_json::from_value(document["images"].clone()).ok();
            let made_ms = document["made_ms"].as_u64().unwrap_or(now);
            if let (true, Some(images), Some(node)) = (done, images, task.node) {
                tx.snapshot_made(id, node, (made_ms, &images), now).await?;
            }
            let one = tx.instance_snapshot(id, &EVERYTHING).await?;
            match one.state {
                SnapshotState::Requested => {
                    let why =
                        if done { "its node did not tell what it made" } else { &task.message };
                    release(tx, &one, (why, 0), now).await
                }
                SnapshotState::Ready if task.cancel_requested => {
                    release(tx, &one, ("it was cancelled", 0), now).await
                }
                SnapshotState::Ready => {
                    // What was told is noted, whatever cannot be read of others.
                    let part = tx.begin_part().await?;
                    let kept = retain_of(tx, &one, now).await;
                    let what = format!("the snapshots of instance {}", one.new.instance);
                    match go_on(&what, kept)? {
                        Some(()) => tx.end_part(part).await?,
                        None => tx.undo_part(part).await?,
                    }
                    Ok(())
                }
                _ => Ok(()),
            }
        }
        Ok(TaskSpec::Unsnapshot { snapshot }) if done => {
            let Ok(id) = snapshot.name.parse::<SnapshotId>() else { return Ok(()) };
            Ok(tx.snapshot_gone(id, None, now).await?)
        }
        _ => Ok(()),
    }
}

/// Removes what the rule of a new snapshot keeps no more. Those of a rule that is not there any
/// more stay: nobody says how long.
async fn retain_of(tx: &mut Tx, new: &InstanceSnapshot, now: u64) -> Result<()> {
    let Some(policy) = new.new.policy else { return Ok(()) };
    let policy = match tx.get::<Policy>(policy, &EVERYTHING).await {
        Ok(policy) => policy.body,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let filter =
        SnapshotFilter { state: Some(SnapshotState::Ready), instance: Some(new.new.instance) };
    let page = Page { after: None, limit: Page::LARGEST };
    let all = apart(WORD, tx.snapshots(&Visible::All, &filter, &page).await?);
    let same =
        |one: &InstanceSnapshot| (one.new.policy, &one.new.rule) == (new.new.policy, &new.new.rule);
    let all: Vec<_> = all.into_iter().filter(same).map(|one| (one.id, one.made_ms)).collect();
    for id in over(&policy, &new.new.rule, &all, now) {
        release_ready(tx, id, now).await?;
    }
    Ok(())
}

/// What a rule keeps no more of its snapshots of an instance.
fn over(policy: &Policy, rule: &str, all: &[(SnapshotId, u64)], now: u64) -> Vec<SnapshotId> {
    let Some(rule) = policy.snapshots.iter().find(|one| one.name == rule) else {
        return Vec::new();
    };
    let made: Vec<u64> = all.iter().map(|(_, made_ms)| *made_ms).collect();
    let expired = rule.keep.expired(&made, now).into_iter();
    all.iter().zip(expired).filter(|(_, expired)| *expired).map(|((id, _), _)| *id).collect()
}

/// Looks after snapshots.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    /// When it was looked last for those that are too old.
    looked_ms: u64,
}

impl Keeper {
    /// Settles what no task told, and removes what is over.
    pub(crate) async fn tick(&mut self, shared: &Shared, now: u64) -> Result<()> {
        let found = shared.catalog.read().await?.snapshots_to_settle(now).await?;
        if !found.is_empty() {
            let mut tx = shared.catalog.begin().await?;
            tx.decide_alone().await?;
            for (id, revision) in found {
                let part = tx.begin_part().await?;
                let settled = settle(&mut tx, (id, revision), now).await;
                match go_on(&format!("the snapshot {id}"), settled)? {
                    Some(()) => tx.end_part(part).await?,
                    None => tx.undo_part(part).await?,
                }
            }
            tx.commit().await?;
            shared.work.notify_one();
        }
        if now.abs_diff(self.looked_ms) >= LOOK_MS {
            self.looked_ms = now;
            expire(shared, now).await?;
        }
        Ok(())
    }
}

/// Settles one that is as it was found: another server may have done so since.
async fn settle(tx: &mut Tx, (id, revision): (SnapshotId, u64), now: u64) -> Result<()> {
    let one = &tx.instance_snapshot(id, &EVERYTHING).await?;
    if one.revision != revision {
        return Ok(());
    }
    match one.state {
        // Whoever was to remove it could not.
        SnapshotState::Removing => release(tx, one, (&one.message, now + AGAIN_MS), now).await,
        SnapshotState::Ready if tx.snapshot_used(one).await? => Ok(()),
        SnapshotState::Ready => release(tx, one, ("its time is over", 0), now).await,
        SnapshotState::Requested => {
            let task = tx.task(one.new.task, &EVERYTHING).await.ok();
            let why = task.map(|task| task.message).unwrap_or_default();
            release(tx, one, (&why, 0), now).await
        }
        SnapshotState::Gone => Ok(()),
    }
}

/// Removes what rules keep no more by its age. What that is, is found before anybody waits.
async fn expire(shared: &Shared, now: u64) -> Result<()> {
    let found = no_more_kept(&mut shared.catalog.read().await?, now).await?;
    for some in found.chunks(AT_ONCE) {
        let mut tx = shared.catalog.begin().await?;
        tx.decide_alone().await?;
        for id in some {
            let part = tx.begin_part().await?;
            let released = release_ready(&mut tx, *id, now).await;
            match go_on(&format!("the snapshot {id}"), released)? {
                Some(()) => tx.end_part(part).await?,
                None => tx.undo_part(part).await?,
            }
        }
        tx.commit().await?;
        shared.work.notify_one();
    }
    Ok(())
}

/// What rules keep no more. Those of a rule that is not there any more stay.
async fn no_more_kept(tx: &mut Tx, now: u64) -> Result<Vec<SnapshotId>> {
    let mut policies: BTreeMap<PolicyId, Option<Policy>> = BTreeMap::new();
    let mut found = Vec::new();
    for ((_, id, rule), all) in tx.snapshots_of_rules().await? {
        if let Entry::Vacant(new) = policies.entry(id) {
            let policy = match tx.get::<Policy>(id, &EVERYTHING).await {
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                policy => go_on(&format!("the policy {id}"), policy.map_err(Problem::from))?,
            };
            new.insert(policy.map(|policy| policy.body));
        }
        let Some(Some(policy)) = policies.get(&id) else { continue };
        found.extend(over(policy, &rule, &all, now));
    }
    Ok(found)
}

/// Removes one that its rule keeps no more, if it is still there and nothing reads it.
async fn release_ready(tx: &mut Tx, id: SnapshotId, now: u64) -> Result<()> {
    let one = match tx.instance_snapshot(id, &EVERYTHING).await {
        Ok(one) => one,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if one.state != SnapshotState::Ready || tx.snapshot_used(&one).await? {
        return Ok(());
    }
    release(tx, &one, (NOT_KEPT, 0), now).await
}

/// From which snapshot a backup is made that rules want from one; none of what has none by its
/// nature.
pub(crate) fn wanted(from_snapshot: bool, source: &Source) -> Option<SnapshotUse> {
    let stream = matches!(source, Source::Command { .. });
    (from_snapshot && !stream).then(SnapshotUse::default)
}

/// From which snapshot somebody wants a backup, and which node has it: one that is there, a new
/// one, or what the rules for that destination say.
pub(crate) async fn chosen(
    tx: &mut Tx,
    instance: &Record<Instance>,
    destination: DestinationId,
    (kept, fresh): (Option<SnapshotId>, Option<bool>),
) -> Result<(Option<SnapshotUse>, Option<NodeId>)> {
    if let Some(id) = kept {
        if fresh.is_some() {
            return Err(Problem::invalid("a backup is made from one snapshot, or from a new one"));
        }
        let one = tx.instance_snapshot(id, &EVERYTHING).await?;
        if one.new.instance != instance.id {
            return Err(Problem::not_found("snapshot"));
        }
        if one.state != SnapshotState::Ready {
            return Err(not_there(&one));
        }
        let kept = Some(id.to_string());
        return Ok((Some(SnapshotUse { kept, ..SnapshotUse::default() }), one.node));
    }
    let by_rule = match fresh {
        Some(fresh) => {
            if fresh {
                check(&instance.body.source)?;
            }
            fresh
        }
        None => {
            let policies = tx.policies_of(instance).await?;
            let mut rules = policies.iter().flat_map(|policy| &policy.body.rules);
            rules.any(|rule| rule.destination == destination && rule.from_snapshot)
        }
    };
    Ok((wanted(by_rule, &instance.body.source), instance.body.node))
}

fn not_there(one: &InstanceSnapshot) -> Problem {
    let text = format!("the snapshot {} is {}", one.id, one.state.word());
    Problem::new(StatusCode::CONFLICT, "conflict", text)
}

/// What moment a restore point holds that was made from a snapshot, if that is known.
pub(crate) async fn moment(tx: &mut Tx, task: &Task) -> Result<Option<u64>> {
    let id = task.new.spec["snapshot"]["kept"].as_str().and_then(|id| id.parse().ok());
    let Some(id) = id else { return Ok(None) };
    match tx.instance_snapshot(id, &EVERYTHING).await {
        Ok(one) => Ok(Some(one.made_ms)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Completes what a node is told of a snapshot: where it lies there, and that it is this node's.
/// Returns the only folders in which its images lie, when they are not those of the source.
pub(crate) async fn complete(
    tx: &mut Tx,
    config: &NodeConfig,
    node: &Record<Node>,
    task: &Task,
    work: &mut Work,
) -> Result<Option<Vec<String>>> {
    let folders: Vec<String> = config.snapshot_folders.iter().cloned().collect();
    let no = |text: String| Problem::new(StatusCode::CONFLICT, "no-snapshots", text);
    let none = || {
        no(format!(
            "{} keeps no snapshots: an administrator names a folder on the images' file system in \
             the node's configuration (snapshot_folders)",
            node.name
        ))
    };
    match &mut work.spec {
        TaskSpec::Snapshot { snapshot, .. } => {
            if folders.is_empty() {
                return Err(none());
            }
            snapshot.folders = folders;
            // What it has begun is nowhere else.
            tx.bind_to_node(task.id, node.id).await?;
        }
        TaskSpec::Unsnapshot { snapshot } => {
            snapshot.folders.extend(folders);
            snapshot.folders.sort();
            snapshot.folders.dedup();
        }
        TaskSpec::Backup { snapshot: Some(from), .. } => {
            if let Some(kept) = &from.kept {
                let one = tx.instance_snapshot(kept.parse()?, &EVERYTHING).await?;
                if one.state != SnapshotState::Ready {
                    return Err(not_there(&one));
                }
                return Ok(Some(folders_of(&one.images)));
            }
            if !node.body.capabilities.kinds.iter().any(|kind| kind == KIND) {
                return Err(no(format!("{} makes no snapshots: upgrade it", node.name)));
            }
            if folders.is_empty() {
                return Err(none());
            }
            let name = format!("{}-{}", task.id, task.attempt);
            from.order = SnapshotOrder { name, folders, seen: Vec::new() };
        }
        _ => {}
    }
    Ok(None)
}

/// Lets a backup read the images of a snapshot that is there.
pub(crate) async fn of_kept(tx: &mut Tx, spec: &mut TaskSpec) -> Result<()> {
    let TaskSpec::Backup { images, folder, snapshot: Some(from), .. } = spec else {
        return Ok(());
    };
    let Some(kept) = &from.kept else { return Ok(()) };
    let one = tx.instance_snapshot(kept.parse()?, &EVERYTHING).await?;
    *images = one.images.iter().map(|image| format!("{}={}", image.name, image.path)).collect();
    *folder = None;
    Ok(())
}

#[cfg(test)]
mod tests {
    use sluice_catalog::{Catalog, InstanceId, TaskFilter, TaskId};

    use super::*;

    #[test]
    fn the_folder_of_an_image_is_that_of_its_snapshot() {
        let image = |path: &str| SnapshotImage { name: "a".into(), path: path.into(), bytes: 0 };
        let images = [image("/kept/ID/vda/x.raw"), image("/kept/ID/vdb/y.raw")];
        assert_eq!(folders_of(&images), ["/kept"]);
        assert!(folders_of(&[image("/x.raw")]).is_empty());
    }

    #[test]
    fn what_a_program_prints_needs_no_snapshot_and_a_device_has_none() {
        let command = Source::Command { command: vec!["/bin/dump".into()], name: None };
        let device = Source::Device { path: "/dev/x".into() };
        let folder = Source::Folder { path: "/srv".into() };
        assert_eq!(wanted(true, &command), None);
        assert!(wanted(true, &device).is_some() && wanted(false, &folder).is_none());
        assert!(check(&folder).is_ok());
        for odd in [&command, &device] {
            assert_eq!(check(odd).unwrap_err().status, 422);
        }
    }

    /// A catalog with an instance's snapshot that is ready on a node.
    async fn ready(folder: &Path) -> (Catalog, SnapshotId) {
        let url = format!("sqlite:{}", folder.join("catalog.sqlite").display());
        let catalog = Catalog::open(&url).await.unwrap();
        let mut tx = catalog.begin().await.unwrap();
        let node = tx.add_node("mover", Node::default(), "hash", 1).await.unwrap().id;
        let id = SnapshotId::new(1);
        let new = NewSnapshot {
            project: None,
            instance: InstanceId::new(1),
            policy: None,
            rule: String::new(),
            task: TaskId::new(1),
            expires_ms: 5,
        };
        tx.add_snapshot(id, &new, 1).await.unwrap();
        tx.snapshot_made(id, node, (2, &[]), 2).await.unwrap();
        tx.commit().await.unwrap();
        (catalog, id)
    }

    async fn removals(tx: &mut Tx) -> usize {
        let filter = TaskFilter { kind: Some("unsnapshot".into()), ..TaskFilter::default() };
        tx.tasks(&Visible::All, &filter, &Page::default()).await.unwrap().len()
    }

    #[tokio::test]
    async fn of_two_who_remove_the_same_snapshot_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let (catalog, id) = ready(folder.path()).await;
        let mut tx = catalog.begin().await.unwrap();
        let found = tx.snapshots_to_settle(9).await.unwrap();
        assert_eq!(found, [(id, 2)]);
        let read = tx.instance_snapshot(id, &EVERYTHING).await.unwrap();
        release(&mut tx, &read, ("its time is over", 0), 9).await.unwrap();
        let removing = tx.instance_snapshot(id, &EVERYTHING).await.unwrap();
        assert_eq!((removing.state, removals(&mut tx).await), (SnapshotState::Removing, 1));
        // What another has read before is not what there is.
        release(&mut tx, &read, ("its time is over", 0), 9).await.unwrap();
        settle(&mut tx, found[0], 9).await.unwrap();
        release_ready(&mut tx, id, 9).await.unwrap();
        assert_eq!(removals(&mut tx).await, 1, "no task is left that nobody knows of");
        assert_eq!(tx.instance_snapshot(id, &EVERYTHING).await.unwrap(), removing);
    }
}
