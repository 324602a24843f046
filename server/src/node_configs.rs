//! What nodes may do: their configurations, as they are used when tasks are given away.
//!
//! A node has the configuration it was assigned, or the one that is called `default`. What a node
//! says of itself narrows it: the smaller number counts, and destinations must be in both.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use axum::http::StatusCode;
use serde_json::Value;
use sluice_catalog::{
    Instance, Node, NodeConfig, NodeConfigId, NodeId, NodeState, Page, Project, Record, Source,
    Task, Tx, lies_in,
};
use sluice_node_api::{TaskSpec, TestOrder, Work};

use crate::access::{Permission, granted};
use crate::api::policies::EVERYTHING;
use crate::auth::Actor;
use crate::complaint::complain;
use crate::hooks;
use crate::imports;
use crate::placement;
use crate::problem::{Problem, Result};
use crate::snapshots;

/// The configuration of nodes that have none of their own.
const DEFAULT: &str = "default";
/// The variables of a task that a configuration sets.
const THREADS: &str = "SLUICE_THREADS";
const BANDWIDTH: &str = "SLUICE_BANDWIDTH";
const STAGING: &str = "SLUICE_CACHE_DIR";

/// All configurations, to look up those of many nodes.
#[derive(Debug, Default)]
pub(crate) struct Configs {
    by_id: HashMap<NodeConfigId, NodeConfig>,
    names: HashMap<NodeConfigId, String>,
    /// What these allow is not known: their nodes get nothing to do.
    unreadable: HashSet<NodeConfigId>,
    default: Option<NodeConfigId>,
}

impl Configs {
    pub(crate) async fn load(tx: &mut Tx) -> Result<Self> {
        let mut found = Self::default();
        let mut page = Page { after: None, limit: Page::LARGEST };
        loop {
            let part = tx.list_readable::<NodeConfig>(&EVERYTHING, &page).await?;
            let Some(last) = part.last else { return Ok(found) };
            page.after = Some(last);
            for (id, name, error) in part.unreadable {
                complain(&format!("the node configuration {name}"), &error.to_string());
                let id = id.parse()?;
                if name == DEFAULT {
                    found.default = Some(id);
                }
                found.unreadable.insert(id);
            }
            for record in part.records {
                found.add(record.id, record.name, record.body);
            }
        }
    }

    fn add(&mut self, id: NodeConfigId, name: String, config: NodeConfig) {
        if name == DEFAULT {
            self.default = Some(id);
        }
        self.by_id.insert(id, config);
        self.names.insert(id, name);
    }

    /// These and no others.
    #[cfg(test)]
    pub(crate) fn of_these(
        all: impl IntoIterator<Item = (NodeConfigId, String, NodeConfig)>,
    ) -> Self {
        let mut these = Self::default();
        all.into_iter().for_each(|(id, name, config)| these.add(id, name, config));
        these
    }

    /// The configuration of a node.
    pub(crate) fn of(&self, node: &Node) -> Option<&NodeConfig> {
        self.by_id.get(&self.id_of(node)?)
    }

    /// Which configuration a node has.
    pub(crate) fn id_of(&self, node: &Node) -> Option<NodeConfigId> {
        node.config.or(self.default)
    }

    /// All that can be read.
    pub(crate) fn all(&self) -> impl Iterator<Item = (NodeConfigId, &NodeConfig)> {
        self.by_id.iter().map(|(id, config)| (*id, config))
    }

    /// The name of a configuration.
    pub(crate) fn name(&self, id: NodeConfigId) -> &str {
        self.names.get(&id).map(String::as_str).unwrap_or_default()
    }

    /// Whether what a node may do cannot be read.
    pub(crate) fn is_unknown(&self, node: &Node) -> bool {
        node.config.or(self.default).is_some_and(|id| self.unreadable.contains(&id))
    }

    /// A node with what its configuration says of it.
    pub(crate) fn narrow(&self, mut node: Node) -> Node {
        let held = self.is_unknown(&node) || !node.takes_tasks();
        if held && node.state == NodeState::Enabled {
            node.state = NodeState::Draining;
        }
        let Some(config) = self.of(&node) else { return node };
        node.slots = node.slots.into_iter().chain(config.slots).min();
        for (kind, most) in &config.slots_by_kind {
            let own = node.slots_by_kind.entry(kind.clone()).or_insert(*most);
            *own = (*own).min(*most);
        }
        node.destinations = match (node.destinations, config.destinations.clone()) {
            (Some(own), Some(all)) => Some(own.into_iter().filter(|id| all.contains(id)).collect()),
            (own, all) => own.or(all),
        };
        node
    }
}

/// Adds to a task what the configuration of its node says, and refuses what that does not allow.
pub(crate) async fn apply(tx: &mut Tx, node: NodeId, task: &Task, work: &mut Work) -> Result<()> {
    let record = tx.get::<Node>(node, &EVERYTHING).await?;
    let configs = Configs::load(tx).await?;
    if configs.is_unknown(&record.body) {
        return Err(Problem::invalid("the configuration of this node cannot be read"));
    }
    let config = configs.of(&record.body).cloned().unwrap_or_default();
    if let Some(threads) = config.threads_by_kind.get(&task.new.kind) {
        work.environment.insert(THREADS.to_owned(), threads.to_string());
    }
    if let Some(rates) = rates(&config) {
        work.environment.insert(BANDWIDTH.to_owned(), rates);
    }
    if let Some(staging) = &config.staging {
        work.environment.insert(STAGING.to_owned(), staging.clone());
    }
    allow_checks(&config, &record.name, work)?;
    imports::check(tx, &config, task, work).await?;
    let kept = snapshots::complete(tx, &config, &record, task, work).await?;
    let reads = ["backup", snapshots::KIND].contains(&task.new.kind.as_str());
    let Some(instance) = task.new.instance.filter(|_| reads) else {
        return Ok(());
    };
    let instance = tx.get::<Instance>(instance, &EVERYTHING).await?;
    work.hooks = hooks::orders(tx, &config, task, &instance, &record).await?;
    if let Some(kept) = kept {
        // Its images were allowed when the snapshot was made, and lie where that was put.
        work.folders = vec![kept];
        return Ok(());
    }
    work.folders = folders(tx, &config, &instance).await?;
    work.folders.extend(tx.source_bound(instance.id).await?.map(|folder| vec![folder]));
    if let Source::Command { command, .. } = &instance.body.source {
        let program = command.first().map(String::as_str).unwrap_or_default();
        if !tx.source_is_trusted(instance.id).await? {
            return Err(not_for_projects(StatusCode::CONFLICT));
        }
        if !config.commands.iter().any(|path| lies_in(program, path)) {
            return Err(hooks::not_allowed(program, &record.name));
        }
        work.programs = config.commands.iter().cloned().collect();
    }
    let outside = outside(&instance.body.source, &work.folders);
    outside.map_or(Ok(()), |path| Err(not_allowed(path, &record.name)))
}

/// The lists in each of which a folder must lie that a node looks through.
pub(crate) async fn only_paths(
    tx: &mut Tx,
    node: NodeId,
    folder: &str,
) -> Result<Vec<Vec<String>>> {
    let record = tx.get::<Node>(node, &EVERYTHING).await?;
    let configs = Configs::load(tx).await?;
    if configs.is_unknown(&record.body) {
        return Err(Problem::invalid("the configuration of this node cannot be read"));
    }
    let only = configs.of(&record.body).and_then(|config| config.only_paths.as_ref());
    let lists: Vec<Vec<String>> = only.iter().map(|list| list.iter().cloned().collect()).collect();
    match lists.iter().all(|list| list.iter().any(|allowed| lies_in(folder, allowed))) {
        true => Ok(lists),
        false => Err(not_allowed(folder, &record.name)),
    }
}

/// Where a node keeps snapshots.
pub(crate) async fn snapshot_folders(tx: &mut Tx, node: NodeId) -> Result<BTreeSet<String>> {
    let record = tx.get::<Node>(node, &EVERYTHING).await?;
    let configs = Configs::load(tx).await?;
    if configs.is_unknown(&record.body) {
        return Err(Problem::invalid("the configuration of this node cannot be read"));
    }
    Ok(configs.of(&record.body).map(|config| config.snapshot_folders.clone()).unwrap_or_default())
}

/// Adds to a restore test which programs its node may run, and the key for logins; refuses what
/// the configuration does not allow. Links are looked at on the node.
fn allow_checks(config: &NodeConfig, node: &str, work: &mut Work) -> Result<()> {
    let TaskSpec::RestoreTest { test } = &mut work.spec else { return Ok(()) };
    allow_test(config, node, test)?;
    for guest in &mut test.guests {
        allow_test(config, node, guest)?;
    }
    work.programs = config.commands.iter().cloned().collect();
    Ok(())
}

fn allow_test(config: &NodeConfig, node: &str, test: &mut TestOrder) -> Result<()> {
    for script in &test.scripts {
        let program = script.command.first().map(String::as_str).unwrap_or_default();
        if !config.commands.iter().any(|path| lies_in(program, path)) {
            return Err(hooks::not_allowed(program, node));
        }
    }
    if !test.ssh.is_empty() {
        let Some(ssh) = &config.guest_ssh else {
            return Err(hooks::not_allowed("logging in to guests", node));
        };
        test.ssh_key.clone_from(&ssh.key_file);
    }
    Ok(())
}

/// `RATE;HH:MM-HH:MM=RATE;...`, in bytes for each second.
fn rates(config: &NodeConfig) -> Option<String> {
    let always = config.bandwidth.limit.map(|rate| rate.to_string());
    let windows = config.bandwidth.windows.iter();
    let windows = windows.map(|(window, rate)| format!("{window}={rate}"));
    let all: Vec<String> = always.into_iter().chain(windows).collect();
    (!all.is_empty()).then(|| all.join(";"))
}

/// The folders in which an instance's source must lie: in one of each list.
async fn folders(
    tx: &mut Tx,
    config: &NodeConfig,
    instance: &Record<Instance>,
) -> Result<Vec<Vec<String>>> {
    let mut lists = Vec::new();
    if let Some(only) = &config.only_paths {
        lists.push(only.iter().cloned().collect());
    }
    if !tx.source_is_trusted(instance.id).await? {
        let project = match instance.project {
            Some(id) => tx.get::<Project>(id, &EVERYTHING).await?.name,
            None => String::new(),
        };
        lists.push(config.folders_of(&project));
    }
    Ok(lists)
}

fn paths(source: &Source) -> Vec<&str> {
    match source {
        Source::DiskFiles { images } => images.iter().map(|image| image.path.as_str()).collect(),
        Source::Device { path } | Source::Folder { path } => vec![path],
        Source::Command { .. } => Vec::new(),
    }
}

/// The first path that does not lie in a folder of each list.
fn outside<'a>(source: &'a Source, lists: &[Vec<String>]) -> Option<&'a str> {
    let inside =
        |path: &&str| lists.iter().all(|list| list.iter().any(|folder| lies_in(path, folder)));
    paths(source).into_iter().find(|path| !inside(path))
}

fn not_allowed(path: &str, node: &str) -> Problem {
    let text = format!(
        "{path} lies in no folder in which this project may name sources on {node}: an \
         administrator names the folder in a node configuration (source_paths), or sets this source"
    );
    Problem::new(StatusCode::CONFLICT, "source-not-allowed", text)
}

/// What a program prints may be anybody's: commands are allowed for whom they were meant, around
/// backups, and that says nothing of who may read what.
fn not_for_projects(status: StatusCode) -> Problem {
    let text = "the output of a command is a source that somebody with a role in the system names, \
                not a project";
    Problem::new(status, "source-not-allowed", text)
}

/// An instance was made or changed by somebody. Who has a role in the system may name any path;
/// others only where a node's administrator lets their project. `before` is what it said.
pub(crate) async fn named(
    tx: &mut Tx,
    instance: &Record<Instance>,
    before: Option<&Value>,
    actor: &Actor,
) -> Result<()> {
    let now = serde_json::to_value(&instance.body).unwrap_or_default();
    let same = |before: &Value| before["source"] == now["source"] && before["node"] == now["node"];
    let trusted = granted(&actor.grants, Permission::Manage, None);
    if before.is_some_and(same) {
        return if trusted { Ok(()) } else { same_nodes(tx, instance, before).await };
    }
    tx.trust_source(instance.id, trusted).await?;
    if trusted {
        return Ok(());
    }
    if matches!(instance.body.source, Source::Command { .. }) {
        return Err(not_for_projects(StatusCode::UNPROCESSABLE_ENTITY));
    }
    let configs = Configs::load(tx).await?;
    let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
    for record in crate::queue::all_nodes(tx).await? {
        if instance.body.node.is_none_or(|node| node == record.id) {
            nodes.insert(record.name, record.body);
        }
    }
    let mut refused = None;
    for (name, node) in nodes.iter().filter(|(_, node)| !configs.is_unknown(node)) {
        let config = configs.of(node).cloned().unwrap_or_default();
        let lists = folders(tx, &config, instance).await?;
        match outside(&instance.body.source, &lists) {
            None => return Ok(()),
            Some(path) => refused = Some(not_allowed(path, name)),
        }
    }
    let path = paths(&instance.body.source).first().copied().unwrap_or_default();
    let mut refused = refused.unwrap_or_else(|| not_allowed(path, "any node"));
    refused.status = StatusCode::UNPROCESSABLE_ENTITY.as_u16();
    Err(refused)
}

/// Refuses that a project has a path read by other nodes, where it may be somebody else's, if it
/// was named for those that read it now.
async fn same_nodes(
    tx: &mut Tx,
    instance: &Record<Instance>,
    before: Option<&Value>,
) -> Result<()> {
    let was = before.and_then(|body| serde_json::from_value::<Instance>(body.clone()).ok());
    let Some(was) = was.filter(|_| instance.body.node.is_none()) else { return Ok(()) };
    if !tx.source_is_trusted(instance.id).await? {
        return Ok(());
    }
    let configs = Configs::load(tx).await?;
    let was = Record { body: was, ..instance.clone() };
    let served = |one: &Record<Instance>| placement::claim(&configs, &placement::placed(one));
    if served(&was) == served(instance) {
        return Ok(());
    }
    let text = "other nodes would read this source then: somebody with a role in the system \
                changes its manager, cluster, host or tags, or names its node";
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "source-not-allowed", text))
}

#[cfg(test)]
mod tests {
    use sluice_catalog::{Bandwidth, DestinationId};

    use super::*;

    fn configs(config: NodeConfig) -> (Configs, NodeConfigId) {
        let id = NodeConfigId::new(1);
        (Configs::of_these([(id, "one".to_owned(), config)]), id)
    }

    #[test]
    fn a_node_does_what_it_and_its_configuration_allow() {
        let (one, two) = (DestinationId::new(1), DestinationId::new(2));
        let (mut configs, id) = configs(NodeConfig {
            slots: Some(3),
            slots_by_kind: [("backup".to_owned(), 2), ("verify".to_owned(), 1)].into(),
            destinations: Some(vec![one]),
            ..NodeConfig::default()
        });
        let own = Node {
            slots: Some(5),
            slots_by_kind: [("backup".to_owned(), 1)].into(),
            destinations: Some(vec![one, two]),
            ..Node::default()
        };
        let free = configs.narrow(own.clone());
        assert_eq!((free.slots, free.destinations), (Some(5), Some(vec![one, two])));
        let bound = configs.narrow(Node { config: Some(id), ..own });
        assert_eq!((bound.slots, bound.destinations), (Some(3), Some(vec![one])));
        assert_eq!((bound.slots_by_kind["backup"], bound.slots_by_kind["verify"]), (1, 1));
        configs.default = Some(id);
        assert_eq!(configs.narrow(Node::default()).slots, Some(3));
    }

    #[test]
    fn rates_are_one_word_for_the_executable() {
        assert_eq!(rates(&NodeConfig::default()), None);
        let windows = [("08:00-18:00".to_owned(), 5)].into();
        let bandwidth = Bandwidth { limit: Some(9), windows };
        let config = NodeConfig { bandwidth, ..NodeConfig::default() };
        assert_eq!(rates(&config).as_deref(), Some("9;08:00-18:00=5"));
    }

    #[test]
    fn a_source_lies_in_a_folder_of_each_list() {
        let source = Source::Device { path: "/srv/shop/a".into() };
        let list = |folders: &[&str]| folders.iter().map(|&f| f.to_owned()).collect::<Vec<_>>();
        assert_eq!(outside(&source, &[]), None);
        assert_eq!(outside(&source, &[list(&["/x", "/srv"]), list(&["/srv/shop"])]), None);
        assert!(outside(&source, &[list(&["/srv"]), list(&[])]).is_some());
        assert!(outside(&source, &[list(&["/srv/bank"])]).is_some());
    }
}
