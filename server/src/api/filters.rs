//! What lists of records are filtered by.

use std::collections::BTreeSet;

use serde::Deserialize;
use sluice_catalog::{
    ByHand, Destination, DestinationId, Having, IdentityProvider, Instance, Inventory, Kind, Node,
    NodeConfig, NodeConfigId, NodeId, NodeState, Page, Plan, Policy, PolicyId, Project, ProjectId,
    Record, Sought, Tx, Visible,
};
use utoipa::IntoParams;

use crate::api::{List, PageQuery};
use crate::problem::Result;

/// Which records of a kind are asked for.
pub(crate) trait Filter<K: Kind>: Sync {
    /// Which part of the list.
    fn page(&self) -> Result<Page>;

    /// What the database can tell; it may let more through. What is so when nothing is said stands
    /// in no document of an earlier release.
    ///
    /// # Errors
    /// When what is sought is longer than anything that records say.
    fn sought(&self) -> Result<Sought>;

    /// Whether a record is one of those.
    fn fits(&self, record: &Record<K>, having: Option<&Having<'_>>) -> bool {
        let _ = (record, having);
        true
    }

    /// The policy whose instances are asked for.
    fn policy(&self) -> Option<PolicyId> {
        None
    }
}

/// Nothing but the names of what is listed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct NameQuery {
    /// Those with this name; `*` stands for anything, `?` for one character.
    pub(crate) name: Option<String>,
    /// Begin after this: `next` of the part before.
    pub(crate) after: Option<String>,
    /// Return so many at most: 1 to 1000, 100 when it is not said.
    pub(crate) limit: Option<u32>,
}

/// Which destinations.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DestinationQuery {
    /// Those with this name; `*` stands for anything, `?` for one character.
    name: Option<String>,
    /// Those of this project.
    #[param(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// Those whose URL begins with this, such as `s3`.
    scheme: Option<String>,
    /// Begin after this: `next` of the part before.
    after: Option<String>,
    /// Return so many at most: 1 to 1000, 100 when it is not said.
    limit: Option<u32>,
}

/// Which instances.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct InstanceQuery {
    /// Those with this name; `*` stands for anything, `?` for one character.
    name: Option<String>,
    /// Those of this project.
    #[param(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// Those with this tag.
    tag: Option<String>,
    /// Those that this node reaches.
    #[param(value_type = Option<String>)]
    node: Option<NodeId>,
    /// Those that run on this.
    cluster: Option<String>,
    /// Those that this policy has, by hand or by itself.
    #[param(value_type = Option<String>)]
    policy: Option<PolicyId>,
    /// Those whose disks come from there: `disk-files`, `device`, `folder` or `command`.
    source: Option<String>,
    /// Those that are paused, or that are not.
    paused: Option<bool>,
    /// Those whose source is there, or gone.
    present: Option<bool>,
    /// Begin after this: `next` of the part before.
    after: Option<String>,
    /// Return so many at most: 1 to 1000, 100 when it is not said.
    limit: Option<u32>,
}

/// Which policies.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PolicyQuery {
    /// Those with this name; `*` stands for anything, `?` for one character.
    name: Option<String>,
    /// Those of this project.
    #[param(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// Those that use this destination, for backups, copies or tests.
    #[param(value_type = Option<String>)]
    destination: Option<DestinationId>,
    /// Those that are paused, or that are not.
    paused: Option<bool>,
    /// Begin after this: `next` of the part before.
    after: Option<String>,
    /// Return so many at most: 1 to 1000, 100 when it is not said.
    limit: Option<u32>,
}

/// Which plans.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PlanQuery {
    /// Those with this name; `*` stands for anything, `?` for one character.
    name: Option<String>,
    /// Those of this project.
    #[param(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// Begin after this: `next` of the part before.
    after: Option<String>,
    /// Return so many at most: 1 to 1000, 100 when it is not said.
    limit: Option<u32>,
}

/// Which inventories.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct InventoryQuery {
    /// Those with this name; `*` stands for anything, `?` for one character.
    name: Option<String>,
    /// Those of this project.
    #[param(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// Those that are paused, or that are not.
    paused: Option<bool>,
    /// Begin after this: `next` of the part before.
    after: Option<String>,
    /// Return so many at most: 1 to 1000, 100 when it is not said.
    limit: Option<u32>,
}

/// Which nodes.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct NodeQuery {
    /// Those with this name; `*` stands for anything, `?` for one character.
    name: Option<String>,
    /// Those in this state.
    state: Option<NodeState>,
    /// Those with this configuration.
    #[param(value_type = Option<String>)]
    config: Option<NodeConfigId>,
    /// Begin after this: `next` of the part before.
    after: Option<String>,
    /// Return so many at most: 1 to 1000, 100 when it is not said.
    limit: Option<u32>,
}

/// Which part of the list is asked for, of what has these fields.
macro_rules! page {
    () => {
        fn page(&self) -> Result<Page> {
            PageQuery { after: self.after.clone(), limit: self.limit }.page()
        }
    };
}

macro_rules! by_name {
    ($($kind:ident)*) => { $(
        impl Filter<$kind> for NameQuery {
            page!();

            fn sought(&self) -> Result<Sought> {
                Ok(Sought::named(None, self.name.clone()))
            }
        }
    )* };
}

by_name!(Project NodeConfig IdentityProvider);

impl Filter<Destination> for DestinationQuery {
    page!();

    fn sought(&self) -> Result<Sought> {
        Ok(Sought::named(self.project, self.name.clone()))
    }

    fn fits(&self, record: &Record<Destination>, _: Option<&Having<'_>>) -> bool {
        let scheme = record.body.url.split_once("://").map_or("file", |(scheme, _)| scheme);
        self.scheme.as_ref().is_none_or(|sought| sought == scheme)
    }
}

impl Filter<Instance> for InstanceQuery {
    page!();

    fn sought(&self) -> Result<Sought> {
        let sought = Sought::named(self.project, self.name.clone())
            .saying(self.tag.as_ref())?
            .with("node", self.node.as_ref())?
            .with("cluster", self.cluster.as_ref())?
            .with("kind", self.source.as_ref())?
            .with("present", self.present.as_ref().filter(|present| !**present))?
            .with("paused", self.paused.as_ref().filter(|paused| **paused))?;
        Ok(sought)
    }

    fn fits(&self, record: &Record<Instance>, having: Option<&Having<'_>>) -> bool {
        let body = &record.body;
        let source = || serde_json::to_value(&body.source).unwrap_or_default();
        self.tag.as_ref().is_none_or(|tag| body.tags.contains(tag))
            && self.node.is_none_or(|node| body.node == Some(node))
            && (self.cluster.is_none() || self.cluster == body.cluster)
            && self.paused.is_none_or(|paused| body.paused == paused)
            && self.present.is_none_or(|present| body.present == present)
            && self.source.as_ref().is_none_or(|kind| source()["kind"] == kind.as_str())
            && having.is_none_or(|having| having.has(record))
    }

    fn policy(&self) -> Option<PolicyId> {
        self.policy
    }
}

impl Filter<Policy> for PolicyQuery {
    page!();

    fn sought(&self) -> Result<Sought> {
        let sought = Sought::named(self.project, self.name.clone())
            .saying(self.destination.as_ref())?
            .with("paused", self.paused.as_ref().filter(|paused| **paused))?;
        Ok(sought)
    }

    fn fits(&self, record: &Record<Policy>, _: Option<&Having<'_>>) -> bool {
        let body = &record.body;
        let uses = |id: DestinationId| {
            let copies = body.rules.iter().flat_map(|rule| &rule.copies);
            body.rules.iter().any(|rule| rule.destination == id)
                || body.tests.iter().any(|test| test.destination == id)
                || copies.into_iter().any(|copy| copy.destination == id)
        };
        self.paused.is_none_or(|paused| body.paused == paused) && self.destination.is_none_or(uses)
    }
}

impl Filter<Inventory> for InventoryQuery {
    page!();

    fn sought(&self) -> Result<Sought> {
        let sought = Sought::named(self.project, self.name.clone())
            .with("paused", self.paused.as_ref().filter(|paused| **paused))?;
        Ok(sought)
    }

    fn fits(&self, record: &Record<Inventory>, _: Option<&Having<'_>>) -> bool {
        self.paused.is_none_or(|paused| record.body.paused == paused)
    }
}

impl Filter<Plan> for PlanQuery {
    page!();

    fn sought(&self) -> Result<Sought> {
        Ok(Sought::named(self.project, self.name.clone()))
    }
}

impl Filter<Node> for NodeQuery {
    page!();

    fn sought(&self) -> Result<Sought> {
        let sought = Sought::named(None, self.name.clone())
            .with("state", self.state.as_ref().filter(|state| **state != NodeState::default()))?
            .with("config", self.config.as_ref())?;
        Ok(sought)
    }

    fn fits(&self, record: &Record<Node>, _: Option<&Having<'_>>) -> bool {
        self.state.is_none_or(|state| record.body.state == state)
            && self.config.is_none_or(|config| record.body.config == Some(config))
    }
}

/// The records that are asked for, as they are shown.
///
/// # Errors
/// When the page makes no sense or the policy is not there, and those of the database.
pub(crate) async fn list<K: Kind, V>(
    tx: &mut Tx,
    visible: &Visible,
    filter: &impl Filter<K>,
    view: impl Fn(Record<K>) -> V,
) -> Result<List<V>> {
    let page = filter.page()?;
    let mut known: Option<(Record<Policy>, BTreeSet<ByHand>)> = None;
    if let Some(id) = filter.policy() {
        known = Some((tx.get::<Policy>(id, visible).await?, tx.by_hand().await?));
    }
    let having = known.as_ref().map(|(policy, by_hand)| Having::of(policy, by_hand));
    let fits = |record: &Record<K>| filter.fits(record, having.as_ref());
    let found = tx.seek::<K>(visible, &filter.sought()?, fits, &page).await?;
    Ok(List::found(K::WORD, found, |record| Ok(view(record))))
}
