//! Roles as people write them: `viewer`, `manager@shop`, `operator@instance:shop/web-1`.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};
use sluice_node_api::Client;

use super::records::Records;
use super::word;
use crate::error::usage_error;

/// Kinds of what a role can be given on alone, with where they are listed.
const KINDS: [(&str, &str); 5] = [
    ("instance", "instances"),
    ("policy", "policies"),
    ("destination", "destinations"),
    ("node", "nodes"),
    ("plan", "plans"),
];

/// Names of what roles are given on.
pub(super) struct Roles {
    projects: Records,
    /// By the kind's word; only of kinds that are asked for, for there may be many.
    resources: BTreeMap<&'static str, Records>,
}

impl Roles {
    async fn load(client: &Client, wanted: impl Fn(&str) -> bool) -> Result<Self> {
        let mut resources = BTreeMap::new();
        for (word, list) in KINDS {
            if wanted(word) {
                resources.insert(word, Records::load(client, list).await?);
            }
        }
        Ok(Self { projects: Records::load(client, "projects").await?, resources })
    }

    /// What is needed to understand these words.
    pub(super) async fn in_words(client: &Client, roles: &[String]) -> Result<Self> {
        let named = |word: &str| roles.iter().any(|role| resource(role) == Some(word));
        Self::load(client, named).await
    }

    /// What is needed to name the grants of these users or groups.
    pub(super) async fn in_items(client: &Client, items: &[Value]) -> Result<Self> {
        let grants: Vec<&Value> =
            items.iter().filter_map(|one| one["grants"].as_array()).flatten().collect();
        Self::load(client, |word| grants.iter().any(|one| one["resource"]["kind"] == word)).await
    }

    /// What is needed for any.
    pub(super) async fn all(client: &Client) -> Result<Self> {
        Self::load(client, |_| true).await
    }

    /// As the server takes them.
    pub(super) fn grants(&self, roles: &[String]) -> Result<Vec<Value>> {
        let grant = |text: &String| {
            let (role, on) = match text.split_once('@') {
                Some((role, on)) => (role, Some(on)),
                None => (text.as_str(), None),
            };
            if !["viewer", "operator", "manager", "admin"].contains(&role) {
                let text = format!("{role} is no role: viewer, operator, manager or admin");
                return Err(usage_error(text));
            }
            let Some(on) = on else { return Ok(json!({"role": role, "project": null})) };
            if let Some((kind, name)) = on.split_once(':')
                && let Some(records) = self.resources.get(kind)
            {
                let resource = json!({"kind": kind, "id": records.one(name)?["id"]});
                return Ok(json!({"role": role, "resource": resource}));
            }
            Ok(json!({"role": role, "project": self.projects.one(on)?["id"]}))
        };
        roles.iter().map(grant).collect()
    }

    /// As people write them.
    pub(super) fn words(&self, grants: &Value) -> Vec<String> {
        let one = |grant: &Value| {
            let (role, resource) = (word(grant, "role"), &grant["resource"]);
            if !resource.is_null() {
                let (kind, id) = (word(resource, "kind"), &resource["id"]);
                let records = self.resources.get(kind.as_str());
                let name = records.map_or_else(|| word(resource, "id"), |all| all.name_of(id));
                return format!("{role}@{kind}:{name}");
            }
            match grant["project"].is_null() {
                true => role,
                false => format!("{role}@{}", self.projects.name_of(&grant["project"])),
            }
        };
        grants.as_array().into_iter().flatten().map(one).collect()
    }

    /// As a table shows them.
    pub(super) fn text(&self, grants: &Value) -> String {
        self.words(grants).join(" ")
    }
}

/// The kind of resource that a role is on.
fn resource(role: &str) -> Option<&str> {
    // Names of projects have no colon.
    let (kind, _) = role.split_once('@')?.1.split_once(':')?;
    Some(kind)
}
