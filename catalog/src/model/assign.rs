//! How a policy finds instances by itself.
//!
//! ```text
//!   everything, or what fits each criterion: tags AND names AND clusters AND projects
//!   (one of each list is enough), less what except_tags or except_names name ──► instances
//! ```
//!
//! A policy of a project never has instances of another one, whatever it says here: see [`Having`].

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use wildmatch::WildMatch;

use crate::error::{CatalogError, Result};
use crate::id::ProjectId;
use crate::model::history::ByHand;
use crate::model::instance::Instance;
use crate::model::policy::Policy;
use crate::record::Record;

/// The longest word or pattern, in bytes.
const LONGEST: usize = 255;
/// The most words of one kind.
const MOST: usize = 1000;
/// The most patterns of one kind: each instance is compared with each.
const MOST_PATTERNS: usize = 100;

/// How a policy finds instances. Instances fit when they fit each criterion that is given; without
/// any it finds none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Assign {
    /// Those that have one of these tags.
    pub tags: BTreeSet<String>,
    /// Those whose names match one of these patterns: `*` stands for anything, `?` for one
    /// character.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub names: BTreeSet<String>,
    /// Those on one of these clusters, which are patterns too.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub clusters: BTreeSet<String>,
    /// Those of one of these projects: for a policy of the system.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub projects: BTreeSet<ProjectId>,
    /// All there are, with no criterion.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub everything: bool,
    /// Not those that have one of these tags.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub except_tags: BTreeSet<String>,
    /// Not those whose names match one of these patterns.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub except_names: BTreeSet<String>,
}

impl Assign {
    /// Whether it finds no instance, whatever there is.
    pub fn is_nothing(&self) -> bool {
        !self.everything && !self.has_criterion()
    }

    fn has_criterion(&self) -> bool {
        let words = [&self.tags, &self.names, &self.clusters];
        words.iter().any(|words| !words.is_empty()) || !self.projects.is_empty()
    }

    /// How it finds instances.
    fn finder(&self) -> Finder<'_> {
        let compiled = |patterns: &BTreeSet<String>| {
            patterns.iter().map(|pattern| WildMatch::new(pattern)).collect()
        };
        Finder {
            assign: self,
            names: compiled(&self.names),
            clusters: compiled(&self.clusters),
            except_names: compiled(&self.except_names),
        }
    }

    /// Whether it makes sense by itself.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when it does not.
    pub fn sense(&self) -> Result<()> {
        let lists = [
            (&self.tags, MOST),
            (&self.except_tags, MOST),
            (&self.names, MOST_PATTERNS),
            (&self.clusters, MOST_PATTERNS),
            (&self.except_names, MOST_PATTERNS),
        ];
        for (list, most) in lists {
            let odd = |word: &String| word.is_empty() || word.len() > LONGEST;
            if list.len() > most || list.iter().any(odd) {
                let text = "assign has at most 1000 tags and 100 patterns of a kind, each of 1 to \
                            255 bytes";
                return Err(CatalogError::invalid(text));
            }
        }
        if self.everything && self.has_criterion() {
            let text = "assign says everything, or tags, names, clusters and projects, not both";
            return Err(CatalogError::invalid(text));
        }
        if self.is_nothing() && !(self.except_tags.is_empty() && self.except_names.is_empty()) {
            let text = "assign has exceptions, and nothing they are exceptions of: see everything";
            return Err(CatalogError::invalid(text));
        }
        Ok(())
    }
}

/// Which instances a policy has: those that it finds and those that it was given by hand, of its
/// own project when it belongs to one. Lists of instances, lists of policies and reports ask here.
#[derive(Debug)]
pub struct Having<'a> {
    policy: &'a Record<Policy>,
    by_hand: &'a BTreeSet<ByHand>,
    finder: Finder<'a>,
}

impl<'a> Having<'a> {
    /// What a policy has; `by_hand` is what was given to this policy, or to any.
    pub fn of(policy: &'a Record<Policy>, by_hand: &'a BTreeSet<ByHand>) -> Self {
        Self { policy, by_hand, finder: policy.body.assign.finder() }
    }

    /// The policy.
    pub fn policy(&self) -> &'a Record<Policy> {
        self.policy
    }

    /// Whether an instance is among what it has, also while either of them is paused.
    pub fn has(&self, instance: &Record<Instance>) -> bool {
        (self.policy.project.is_none() || self.policy.project == instance.project)
            && (self.by_hand.contains(&(self.policy.id, instance.id))
                || self.finder.takes(instance))
    }
}

/// How a policy finds instances, with its patterns ready.
#[derive(Debug)]
struct Finder<'a> {
    assign: &'a Assign,
    names: Vec<WildMatch>,
    clusters: Vec<WildMatch>,
    except_names: Vec<WildMatch>,
}

impl Finder<'_> {
    /// Whether it takes an instance.
    fn takes(&self, instance: &Record<Instance>) -> bool {
        let Self { assign, .. } = *self;
        if assign.is_nothing() {
            return false;
        }
        let body = &instance.body;
        let tagged = |tags: &BTreeSet<String>| !tags.is_disjoint(&body.tags);
        let of_project = |project: ProjectId| assign.projects.contains(&project);
        let on = |cluster: &str| matches(&self.clusters, cluster);
        (assign.tags.is_empty() || tagged(&assign.tags))
            && (assign.projects.is_empty() || instance.project.is_some_and(of_project))
            && !tagged(&assign.except_tags)
            && (self.names.is_empty() || matches(&self.names, &instance.name))
            && (self.clusters.is_empty() || body.cluster.as_deref().is_some_and(on))
            && !matches(&self.except_names, &instance.name)
    }
}

fn matches(patterns: &[WildMatch], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::id::InstanceId;

    fn instance(project: ProjectId, name: &str, cluster: Option<&str>) -> Record<Instance> {
        let source = json!({"kind": "device", "path": "/dev/vdb"});
        let body = json!({"source": source, "tags": ["gold", "web"], "cluster": cluster});
        Record {
            id: InstanceId::new(1),
            project: Some(project),
            project_name: None,
            name: name.into(),
            revision: 1,
            created_ms: 0,
            updated_ms: 0,
            body: serde_json::from_value(body).unwrap(),
        }
    }

    fn assign(value: Value) -> Assign {
        let assign: Assign = serde_json::from_value(value).unwrap();
        assign.sense().unwrap();
        assign
    }

    #[test]
    fn an_instance_fits_each_criterion_that_is_given() {
        let (own, other) = (ProjectId::new(1), ProjectId::new(2));
        let web = instance(own, "web-7.shop", Some("rack-1"));
        for (wanted, takes) in [
            (json!({}), false),
            (json!({"everything": true}), true),
            (json!({"tags": ["gold", "silver"]}), true),
            (json!({"tags": ["silver"]}), false),
            (json!({"names": ["db-*", "web-?.shop"]}), true),
            (json!({"names": ["web-?"]}), false),
            (json!({"names": ["WEB-*"]}), false),
            (json!({"clusters": ["rack-*"]}), true),
            (json!({"clusters": ["rack-2"]}), false),
            (json!({"projects": [own, other]}), true),
            (json!({"projects": [other]}), false),
            (json!({"tags": ["gold"], "names": ["db-*"]}), false),
            (json!({"tags": ["gold"], "names": ["web-*"], "clusters": ["rack-1"]}), true),
            (json!({"tags": ["gold"], "except_tags": ["web"]}), false),
            (json!({"everything": true, "except_names": ["*.shop"]}), false),
            (json!({"everything": true, "except_names": ["*.bank"]}), true),
        ] {
            assert_eq!(assign(wanted.clone()).finder().takes(&web), takes, "{wanted}");
        }
        let nowhere = instance(own, "web-8", None);
        assert!(!assign(json!({"clusters": ["*"]})).finder().takes(&nowhere));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for odd in [
            json!({"except_tags": ["a"]}),
            json!({"everything": true, "tags": ["a"]}),
            json!({"names": [""]}),
            json!({"names": ["x".repeat(256)]}),
        ] {
            let assign: Assign = serde_json::from_value(odd.clone()).unwrap();
            assert!(assign.sense().is_err(), "{odd}");
        }
    }

    #[test]
    fn tags_alone_are_written_as_ever() {
        let text = json!({"tags": ["gold"]});
        assert_eq!(serde_json::to_value(assign(text.clone())).unwrap(), text);
    }
}
