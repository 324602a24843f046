//! Which instances the nodes of a configuration work for.
//!
//! ```text
//!   instances ─► tags ─► hosts ─► clusters ─► managers ─► nobody names it
//!   most specific                                         nodes that serve nobody in particular
//! ```
//!
//! Of all configurations, those that name an instance most specifically have it: one that names
//! the instance before one that names its tag, then its host, then its cluster, then its manager.
//! Several of the same rank share it. An instance that nobody names is for nodes whose
//! configuration names nobody.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use wildmatch::WildMatch;

use crate::error::{CatalogError, Result};

/// The longest word or pattern, in bytes.
const LONGEST: usize = 255;
/// The most of one kind: each instance in line is compared with each.
const MOST: usize = 200;

/// Instances, by what they are: `*` stands for anything, `?` for one character.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Serves {
    /// Those in the care of these managers.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub managers: BTreeSet<String>,
    /// Those on these clusters.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub clusters: BTreeSet<String>,
    /// Those on these hosts.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub hosts: BTreeSet<String>,
    /// Those with one of these tags, which are no patterns.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// These, as `PROJECT/NAME`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub instances: BTreeSet<String>,
}

/// By what a configuration has an instance, the most specific last.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum ServesBy {
    /// Its manager.
    Manager,
    /// Its cluster.
    Cluster,
    /// Its host.
    Host,
    /// A tag.
    Tag,
    /// Its name.
    Instance,
}

impl ServesBy {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Manager => "its manager",
            Self::Cluster => "its cluster",
            Self::Host => "its host",
            Self::Tag => "a tag",
            Self::Instance => "its name",
        }
    }
}

/// An instance, as far as it matters for who serves it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placed {
    /// `PROJECT/NAME`.
    pub name: String,
    /// Its tags.
    pub tags: BTreeSet<String>,
    /// Its manager.
    pub manager: Option<String>,
    /// Its cluster.
    pub cluster: Option<String>,
    /// Its host.
    pub host: Option<String>,
}

fn matches(patterns: &BTreeSet<String>, text: &str) -> bool {
    patterns.iter().any(|pattern| WildMatch::new(pattern).matches(text))
}

impl Serves {
    /// Whether it names nobody.
    pub fn is_nothing(&self) -> bool {
        self.lists().iter().all(|list| list.is_empty())
    }

    fn lists(&self) -> [&BTreeSet<String>; 5] {
        [&self.managers, &self.clusters, &self.hosts, &self.tags, &self.instances]
    }

    /// By what it names an instance, most specifically; nothing when it does not.
    pub fn names(&self, instance: &Placed) -> Option<ServesBy> {
        let on = |patterns, place: &Option<String>| {
            place.as_deref().is_some_and(|place| matches(patterns, place))
        };
        if matches(&self.instances, &instance.name) {
            Some(ServesBy::Instance)
        } else if !self.tags.is_disjoint(&instance.tags) {
            Some(ServesBy::Tag)
        } else if on(&self.hosts, &instance.host) {
            Some(ServesBy::Host)
        } else if on(&self.clusters, &instance.cluster) {
            Some(ServesBy::Cluster)
        } else if on(&self.managers, &instance.manager) {
            Some(ServesBy::Manager)
        } else {
            None
        }
    }

    /// Whether it makes sense by itself.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when it does not.
    pub fn sense(&self) -> Result<()> {
        for list in self.lists() {
            let odd = |word: &String| word.is_empty() || word.len() > LONGEST;
            if list.len() > MOST || list.iter().any(odd) {
                let text = "serves has at most 200 words of a kind, each of 1 to 255 bytes";
                return Err(CatalogError::invalid(text));
            }
        }
        if let Some(odd) = self.instances.iter().find(|name| !name.contains(['/', '*'])) {
            let text = format!("{odd}: an instance is PROJECT/NAME, with * and ? for others");
            return Err(CatalogError::invalid(text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn serves(value: Value) -> Serves {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_instance_is_named_by_the_most_specific_of_what_it_is() {
        let web = Placed {
            name: "shop/web-1".into(),
            tags: ["gold".to_owned()].into(),
            manager: Some("cloud-a".into()),
            cluster: Some("rack-1".into()),
            host: Some("hyper-7".into()),
        };
        for (value, by) in [
            (json!({}), None),
            (json!({"managers": ["cloud-?"]}), Some(ServesBy::Manager)),
            (json!({"managers": ["cloud-b"]}), None),
            (json!({"managers": ["*"], "clusters": ["rack-*"]}), Some(ServesBy::Cluster)),
            (json!({"clusters": ["rack-1"], "hosts": ["hyper-?"]}), Some(ServesBy::Host)),
            (json!({"hosts": ["hyper-7"], "tags": ["gold"]}), Some(ServesBy::Tag)),
            (json!({"tags": ["gold"], "instances": ["shop/*"]}), Some(ServesBy::Instance)),
            (json!({"instances": ["bank/*"], "tags": ["gol?"]}), None),
        ] {
            assert_eq!(serves(value.clone()).names(&web), by, "{value}");
        }
        let nowhere = Placed { name: "shop/db".into(), ..Placed::default() };
        let anywhere = json!({"managers": ["*"], "clusters": ["*"], "hosts": ["*"]});
        assert_eq!(serves(anywhere).names(&nowhere), None);
        assert!(ServesBy::Instance > ServesBy::Tag && ServesBy::Host > ServesBy::Cluster);
        assert!(ServesBy::Cluster > ServesBy::Manager);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for odd in [
            json!({"clusters": [""]}),
            json!({"managers": [""]}),
            json!({"instances": ["web"]}),
            json!({"tags": ["x".repeat(256)]}),
        ] {
            assert!(serves(odd.clone()).sense().is_err(), "{odd}");
        }
        assert!(serves(json!({"instances": ["*", "shop/web"]})).sense().is_ok());
    }
}
