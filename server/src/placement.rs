//! Which nodes work for what, and why.
//!
//! ```text
//!   the task names a node ──────────────────► that node
//!   a backup, a snapshot or an inventory,
//!   and configurations serve ───────────────► nodes of those that name the instance most
//!     │                                       specifically, or else those that serve nobody
//!     └─ no configuration names anybody ────► any node
//! ```
//!
//! The queue decides by pools ([`pools_of_task`], [`pools_of_node`]); [`judge`] says the same of
//! each node in words. What a node must be able to do, the destinations it may use and whether it
//! is there come on top.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sluice_catalog::{
    Ability, BackupType, DestinationId, ErrorKind, Instance, NEEDS_SNAPSHOTS, Node, NodeConfigId,
    NodeId, NodeLiveness, NodeState, Placed, Record, ServesBy, Task, Tx, task_needs,
};
use sluice_node_api::NEEDED;
use sluice_scheduler::PoolId;
use sluice_scheduler::queue::Hold;
use utoipa::ToSchema;

use crate::dispatch::backup_spec;
use crate::node_configs::Configs;
use crate::problem::Result;
use crate::queue::{LOST_MS, all_nodes_by};
use crate::snapshots::KIND;

/// Nodes that serve nobody in particular.
const OPEN: &str = "open";
/// The kinds of task that reach what instances run on.
const READ: [&str; 3] = ["backup", "snapshot", INVENTORY];
/// The one of them that looks for instances: what it finds is where it looks.
const INVENTORY: &str = "inventory";
/// How many nodes are named in one line.
const NAMED: usize = 8;

/// Whether a kind of task reaches what instances run on.
fn reads(kind: &str) -> bool {
    READ.contains(&kind)
}

/// Who has an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claim {
    /// No configuration names anybody: any node.
    Anyone,
    /// Nobody names it: nodes that serve nobody in particular.
    Open,
    /// These configurations, which name it by this.
    By(ServesBy, BTreeSet<NodeConfigId>),
}

/// Who has an instance, by all configurations.
pub(crate) fn claim(configs: &Configs, instance: &Placed) -> Claim {
    let mut claimed = Claim::Open;
    let mut any = false;
    for (id, config) in configs.all().filter(|(_, config)| !config.serves.is_nothing()) {
        any = true;
        let Some(by) = config.serves.names(instance) else { continue };
        match &mut claimed {
            Claim::By(most, ids) if *most == by => drop(ids.insert(id)),
            Claim::By(most, _) if *most > by => {}
            _ => claimed = Claim::By(by, [id].into()),
        }
    }
    if any { claimed } else { Claim::Anyone }
}

/// Whether somebody is named at all: if not, instances need not be looked at.
pub(crate) fn anybody_is_served(configs: &Configs) -> bool {
    configs.all().any(|(_, config)| !config.serves.is_nothing())
}

/// The pools of which a task's node must be; any without.
pub(crate) fn pools_of_task(
    configs: &Configs,
    kind: &str,
    wanted: Option<NodeId>,
    instance: Option<&Placed>,
) -> Option<BTreeSet<PoolId>> {
    if let Some(node) = wanted {
        return Some([PoolId::from(node.to_string())].into());
    }
    match claim(configs, instance.filter(|_| reads(kind))?) {
        Claim::Anyone => None,
        Claim::Open => Some([PoolId::from(OPEN)].into()),
        Claim::By(_, ids) => Some(ids.iter().map(|id| PoolId::from(id.to_string())).collect()),
    }
}

/// The pools that a node is of: itself, and those for whose instances it works.
pub(crate) fn pools_of_node(configs: &Configs, id: NodeId, node: &Node) -> BTreeSet<PoolId> {
    let mut pools = BTreeSet::from([PoolId::from(id.to_string())]);
    match configs.of(node).filter(|config| !config.serves.is_nothing()) {
        Some(_) => pools.extend(configs.id_of(node).map(|id| PoolId::from(id.to_string()))),
        None => drop(pools.insert(PoolId::from(OPEN))),
    }
    pools
}

/// Whether a node keeps snapshots of image files: its configuration says where.
pub(crate) fn snapshots(configs: &Configs, node: &Node) -> Ability {
    let lacks = |why: String, fix: &str| Ability {
        name: NEEDS_SNAPSHOTS.to_owned(),
        works: false,
        why,
        fix: fix.to_owned(),
    };
    let fix = "snapshot_folders, with a folder on the file system of the images";
    match (configs.of(node), configs.id_of(node)) {
        _ if !node.capabilities.kinds.iter().any(|kind| kind == KIND) => {
            lacks("it does no tasks of kind snapshot".to_owned(), "a newer release")
        }
        (Some(config), _) if !config.snapshot_folders.is_empty() => {
            Ability { works: true, ..lacks(String::new(), "") }
        }
        (Some(_), Some(id)) => {
            lacks(format!("its configuration {} names no folder for them", configs.name(id)), fix)
        }
        _ => lacks("it has no configuration, which would name a folder for them".to_owned(), fix),
    }
}

/// What a node is able to do: kinds of tasks, what it told of itself, and what its configuration
/// lets it do. One that tells nothing of abilities is of an earlier release, which was believed to
/// have all.
pub(crate) fn abilities(configs: &Configs, node: &Node) -> BTreeSet<String> {
    let told = &node.capabilities;
    let mut able: BTreeSet<String> = told.kinds.iter().cloned().collect();
    match told.abilities.is_empty() {
        true => able.extend(NEEDED.map(str::to_owned)),
        false => {
            let works = told.abilities.iter().filter(|one| one.works);
            able.extend(works.map(|one| one.name.clone()));
        }
    }
    let kept = snapshots(configs, node);
    able.extend(Some(kept.name).filter(|_| kept.works));
    able
}

/// Whether a node may do something, and why, or why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Judgement {
    /// The node.
    node: NodeId,
    /// Its name.
    name: String,
    /// Whether it may, as soon as it has room.
    may: bool,
    /// Why, or why not.
    because: String,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) kind: String,
    pub(crate) needs: BTreeSet<String>,
    pub(crate) destinations: BTreeSet<DestinationId>,
    pub(crate) wanted: Option<NodeId>,
    pub(crate) instance: Option<Placed>,
}

impl Asked {
    /// By a task.
    async fn of(tx: &mut Tx, task: &Task) -> Result<Self> {
        let new = &task.new;
        let instance = match new.instance.filter(|_| reads(&new.kind)) {
            Some(id) => match tx.get::<Instance>(id, &crate::api::policies::EVERYTHING).await {
                Ok(record) => Some(placed(&record)),
                // The task is there still, and somebody wants to know why it waits.
                Err(error) if [ErrorKind::NotFound, ErrorKind::Damaged].contains(&error.kind()) => {
                    None
                }
                Err(error) => return Err(error.into()),
            },
            None if new.kind == INVENTORY => tx.place_of_inventory(&new.spec).await?,
            None => None,
        };
        Ok(Self {
            needs: task_needs(&new.kind, &new.spec),
            kind: new.kind.clone(),
            destinations: new.destination.into_iter().chain(task.from).collect(),
            wanted: new.wanted_node,
            instance,
        })
    }
}

/// An instance as configurations look at it.
pub(crate) fn placed(record: &Record<Instance>) -> Placed {
    let Instance { tags, manager, cluster, host, .. } = record.body.clone();
    let name = match &record.project_name {
        Some(project) => format!("{project}/{}", record.name),
        None => record.name.clone(),
    };
    Placed { name, tags, manager, cluster, host }
}

/// Says of each node whether it may do what is asked for, and why.
pub(crate) fn judge(
    asked: &Asked,
    nodes: &[Record<Node>],
    configs: &Configs,
    seen: &BTreeMap<NodeId, NodeLiveness>,
    now: u64,
) -> Vec<Judgement> {
    let judged = nodes.iter().map(|record| {
        let heard = seen.get(&record.id).map_or(0, |seen| seen.last_seen_ms);
        let verdict = assigned(asked, record, configs, nodes).and_then(|because| {
            able(asked, &record.body, configs)?;
            there(record, configs, heard + LOST_MS >= now)?;
            Ok(because)
        });
        let (may, because) = match verdict {
            Ok(because) => (true, because),
            Err(because) => (false, because),
        };
        Judgement { node: record.id, name: record.name.clone(), may, because }
    });
    judged.collect()
}

/// Whether it is this node's affair.
fn assigned(
    asked: &Asked,
    record: &Record<Node>,
    configs: &Configs,
    nodes: &[Record<Node>],
) -> Result<String, String> {
    if let Some(wanted) = asked.wanted {
        let name = nodes.iter().find(|one| one.id == wanted).map(|one| one.name.as_str());
        return match wanted == record.id {
            true => Ok("it is named for this".to_owned()),
            false => Err(format!("{} is named for this", name.unwrap_or("a node that is gone"))),
        };
    }
    let Some(instance) = asked.instance.as_ref().filter(|_| reads(&asked.kind)) else {
        return Ok("any node may".to_owned());
    };
    let what = if asked.kind == INVENTORY { "the place" } else { "the instance" };
    let own = configs.of(&record.body).filter(|config| !config.serves.is_nothing());
    let own_name = configs.id_of(&record.body).map(|id| configs.name(id)).unwrap_or_default();
    match claim(configs, instance) {
        Claim::Anyone => Ok("any node may: no configuration serves anybody".to_owned()),
        Claim::Open if own.is_none() => {
            Ok(format!("no configuration serves {what}, and it serves nobody else"))
        }
        Claim::Open => Err(format!("its configuration {own_name} serves other instances")),
        Claim::By(by, ids) => {
            let names: Vec<&str> = ids.iter().map(|id| configs.name(*id)).collect();
            let mine = configs.id_of(&record.body).filter(|id| ids.contains(id));
            match mine {
                Some(id) => Ok(format!(
                    "its configuration {} serves {what} by {}",
                    configs.name(id),
                    by.word()
                )),
                None => {
                    Err(format!("{what} is served by {}, by {}", names.join(" and "), by.word()))
                }
            }
        }
    }
}

/// Whether a node is able to.
fn able(asked: &Asked, node: &Node, configs: &Configs) -> Result<(), String> {
    let able = abilities(configs, node);
    let kept = snapshots(configs, node);
    let told = &node.capabilities.abilities;
    let lack = |name: &str| {
        let mut all = told.iter().chain([&kept]);
        let found = all.find(|one| one.name == name && !one.works)?;
        Some(format!("{name} does not work: {}; missing: {}", found.why, found.fix))
    };
    if !able.contains(&asked.kind) {
        let why = match asked.kind.as_str() {
            "restore-test" => lack("test:tcg"),
            _ => None,
        };
        return Err(why.unwrap_or_else(|| format!("it does no tasks of kind {}", asked.kind)));
    }
    if let Some(need) = asked.needs.iter().find(|need| !able.contains(*need)) {
        return Err(lack(need).unwrap_or_else(|| format!("{need} does not work there")));
    }
    let allowed = &node.destinations;
    let free = |id: &DestinationId| allowed.as_ref().is_none_or(|list| list.contains(id));
    match asked.destinations.iter().all(free) {
        true => Ok(()),
        false => Err("it may not use the destination".to_owned()),
    }
}

/// Whether a node is there for new tasks.
fn there(record: &Record<Node>, configs: &Configs, heard: bool) -> Result<(), String> {
    let node = &record.body;
    if configs.is_unknown(node) {
        return Err("its configuration cannot be read".to_owned());
    }
    match node.state {
        NodeState::Disabled => Err("it is disabled".to_owned()),
        NodeState::Draining if node.is_leaving() => Err("it is being upgraded".to_owned()),
        NodeState::Draining => Err("it is drained".to_owned()),
        NodeState::Enabled if !heard => Err("it has not been heard of".to_owned()),
        NodeState::Enabled => Ok(()),
    }
}

/// Which nodes may back up an instance, and why.
pub(crate) async fn for_instance(
    tx: &mut Tx,
    record: &Record<Instance>,
    now: u64,
) -> Result<Vec<Judgement>> {
    let spec = serde_json::to_value(backup_spec(tx, record, BackupType::default()).await?)
        .unwrap_or_default();
    let asked = Asked {
        kind: "backup".to_owned(),
        needs: task_needs("backup", &spec),
        destinations: BTreeSet::new(),
        wanted: record.body.node,
        instance: Some(placed(record)),
    };
    let configs = Configs::load(tx).await?;
    let (nodes, seen) = (all_nodes_by(tx, &configs).await?, tx.liveness().await?);
    Ok(judge(&asked, &nodes, &configs, &seen, now))
}

/// Why a task waits, in a line: for who may know of nodes, with each of them.
pub(crate) async fn why(
    tx: &mut Tx,
    task: &Task,
    hold: Hold,
    names: bool,
    now: u64,
) -> Result<String> {
    let line = hold.to_string();
    if !matches!(hold, Hold::NoNode | Hold::NodesAway) {
        return Ok(line);
    }
    let asked = Asked::of(tx, task).await?;
    if !names {
        let needs: Vec<&str> = asked.needs.iter().map(String::as_str).collect();
        return Ok(match needs.is_empty() {
            true => line,
            false => format!("{line}; it needs {}", needs.join(" and ")),
        });
    }
    let configs = Configs::load(tx).await?;
    let (nodes, seen) = (all_nodes_by(tx, &configs).await?, tx.liveness().await?);
    let judged = judge(&asked, &nodes, &configs, &seen, now);
    let mut told: Vec<String> =
        judged.iter().map(|one| format!("{}: {}", one.name, one.because)).collect();
    let more = told.len().saturating_sub(NAMED);
    told.truncate(NAMED);
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    Ok(if told.is_empty() { line } else { format!("{line} ({})", told.join("; ")) })
}

#[cfg(test)]
mod tests;
