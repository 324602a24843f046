//! Roles and where they hold: in the system, in a project, or on a single resource.
//!
//! What is written down elsewhere is a *document*: `{"role": .., "project": .., "resource": ..}`.
//! A member that is not known is refused, for without it the grant would mean more than was meant.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use super::access::Role;
use crate::error::CatalogError;
use crate::id::{DestinationId, InstanceId, NodeId, PlanId, PolicyId, ProjectId};

/// A single record that a role can be given on.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(tag = "kind", content = "id", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Resource {
    /// An instance, with its restore points, tasks, mounts and restore tests.
    Instance(InstanceId),
    /// A policy, without the instances that it has.
    Policy(PolicyId),
    /// A destination, with the tasks that concern all of it, and without what is stored there.
    Destination(DestinationId),
    /// A node.
    Node(NodeId),
    /// A recovery plan with its runs, without the instances that it names.
    Plan(PlanId),
}

impl Resource {
    /// The words of all kinds.
    pub const WORDS: [&'static str; 5] = ["instance", "policy", "destination", "node", "plan"];

    /// The word of its kind.
    pub fn word(self) -> &'static str {
        match self {
            Self::Instance(_) => "instance",
            Self::Policy(_) => "policy",
            Self::Destination(_) => "destination",
            Self::Node(_) => "node",
            Self::Plan(_) => "plan",
        }
    }

    /// Its id.
    pub fn id(self) -> String {
        match self {
            Self::Instance(id) => id.to_string(),
            Self::Policy(id) => id.to_string(),
            Self::Destination(id) => id.to_string(),
            Self::Node(id) => id.to_string(),
            Self::Plan(id) => id.to_string(),
        }
    }

    /// The resource of that kind and id; nothing when this release does not know the kind.
    pub(crate) fn from_parts(word: &str, id: &str) -> Result<Option<Self>, CatalogError> {
        Ok(Some(match word {
            "instance" => Self::Instance(id.parse()?),
            "policy" => Self::Policy(id.parse()?),
            "destination" => Self::Destination(id.parse()?),
            "node" => Self::Node(id.parse()?),
            "plan" => Self::Plan(id.parse()?),
            _ => return Ok(None),
        }))
    }

    /// The table that has it.
    pub(crate) fn table(self) -> &'static str {
        match self {
            Self::Instance(_) => "instances",
            Self::Policy(_) => "policies",
            Self::Destination(_) => "destinations",
            Self::Node(_) => "nodes",
            Self::Plan(_) => "plans",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.word(), self.id())
    }
}

/// Where a role holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Everywhere.
    System,
    /// In one project, on all that belongs to it.
    Project(ProjectId),
    /// On one record and what comes with it.
    Resource(Resource),
}

/// A role in a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "GrantDocument", into = "GrantDocument")]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// Where it holds.
    pub scope: Scope,
}

impl Grant {
    /// A role everywhere.
    pub fn system(role: Role) -> Self {
        Self { role, scope: Scope::System }
    }

    /// A role in a project.
    pub fn project(role: Role, project: ProjectId) -> Self {
        Self { role, scope: Scope::Project(project) }
    }

    /// A role on one resource.
    pub fn resource(role: Role, resource: Resource) -> Self {
        Self { role, scope: Scope::Resource(resource) }
    }
}

/// A role in a scope: the whole system when neither a project nor a resource is named.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct GrantDocument {
    /// The role.
    role: Role,
    /// The project where it holds.
    #[serde(default)]
    project: Option<ProjectId>,
    /// The only record on which it holds, instead of a project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource: Option<Resource>,
}

impl TryFrom<GrantDocument> for Grant {
    type Error = CatalogError;

    fn try_from(document: GrantDocument) -> Result<Self, Self::Error> {
        let scope = match (document.project, document.resource) {
            (None, None) => Scope::System,
            (Some(project), None) => Scope::Project(project),
            (None, Some(resource)) => Scope::Resource(resource),
            (Some(_), Some(_)) => {
                let text = "a role is given in a project or on a resource, not on both";
                return Err(CatalogError::invalid(text));
            }
        };
        Ok(Self { role: document.role, scope })
    }
}

impl From<Grant> for GrantDocument {
    fn from(grant: Grant) -> Self {
        let (project, resource) = match grant.scope {
            Scope::System => (None, None),
            Scope::Project(project) => (Some(project), None),
            Scope::Resource(resource) => (None, Some(resource)),
        };
        Self { role: grant.role, project, resource }
    }
}

impl PartialSchema for Grant {
    fn schema() -> RefOr<Schema> {
        GrantDocument::schema()
    }
}

impl ToSchema for Grant {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Grant")
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        GrantDocument::schemas(schemas);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn documents_say_one_scope_and_nothing_that_is_not_understood() {
        let id = InstanceId::new(5);
        let on = json!({"role": "operator", "project": null,
            "resource": {"kind": "instance", "id": id}});
        let grant: Grant = from_value(on.clone()).unwrap();
        assert_eq!(grant, Grant::resource(Role::Operator, Resource::Instance(id)));
        assert_eq!(json!(grant), on);
        let everywhere: Grant = from_value(json!({"role": "viewer"})).unwrap();
        assert_eq!(json!(everywhere), json!({"role": "viewer", "project": null}));
        let project = ProjectId::new(7);
        for odd in [
            json!({"role": "viewer", "project": project, "resource": on["resource"]}),
            json!({"role": "viewer", "resources": [on["resource"]]}),
            json!({"role": "viewer", "resource": {"kind": "shelf", "id": id}}),
            json!({"role": "viewer", "resource": {"kind": "node"}}),
        ] {
            assert!(from_value::<Grant>(odd.clone()).is_err(), "{odd}");
        }
    }

    #[test]
    fn words_name_the_kinds_that_there_are() {
        let id = InstanceId::new(1).to_string();
        for word in Resource::WORDS {
            let resource = Resource::from_parts(word, &id).unwrap().unwrap();
            assert_eq!((resource.word(), resource.id()), (word, id.clone()));
        }
        assert_eq!(Resource::from_parts("shelf", &id).unwrap(), None);
        assert!(Resource::from_parts("node", "x").is_err());
    }
}
