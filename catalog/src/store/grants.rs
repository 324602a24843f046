//! Who may do what where: roles in the system and in projects, and roles on single resources.
//!
//! Users, groups and identity providers each have two tables: one for the system and projects, one
//! for resources. A role on a resource ends with the resource.

use crate::db::{Columns, Tx, document, query, text_of};
use crate::error::Result;
use crate::id::{GroupId, ProjectId, UserId};
use crate::model::access::Role;
use crate::model::grant::{Grant, Resource, Scope};
use crate::model::provider::IdentityProvider;
use crate::record::Kind;

/// The order in which grants are told.
const ORDER: &str = "ORDER BY project_id, kind, resource_id, role";

/// Who has grants.
#[derive(Debug, Clone, Copy)]
pub(super) enum Holder {
    /// A user, by itself.
    User(UserId),
    /// A user, by what its identity provider said last.
    Mapped(UserId),
    /// A group.
    Group(GroupId),
}

impl Holder {
    /// The table of projects, that of resources, and the column that has the holder.
    fn tables(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::User(_) => ("bindings", "resource_bindings", "user_id"),
            Self::Mapped(_) => ("mapped_bindings", "mapped_resource_bindings", "user_id"),
            Self::Group(_) => ("group_bindings", "group_resource_bindings", "group_id"),
        }
    }

    fn id(self) -> String {
        match self {
            Self::User(id) | Self::Mapped(id) => id.to_string(),
            Self::Group(id) => id.to_string(),
        }
    }
}

/// What is in a table of projects and in one of resources, where a condition holds.
fn both(projects: &str, resources: &str, condition: &str) -> String {
    format!(
        "SELECT role, project_id, '' AS kind, '' AS resource_id FROM {projects} WHERE {condition} \
         UNION SELECT role, '' AS project_id, kind, resource_id FROM {resources} WHERE {condition}"
    )
}

impl Tx {
    /// What a user may do by itself.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn grants(&mut self, user: UserId) -> Result<Vec<Grant>> {
        self.grants_of(Holder::User(user)).await
    }

    pub(super) async fn grants_of(&mut self, holder: Holder) -> Result<Vec<Grant>> {
        let (projects, resources, column) = holder.tables();
        let own = both(projects, resources, &format!("{column} = $1"));
        self.read_grants(query(format!("{own} {ORDER}")).bind(holder.id())).await
    }

    /// What a user may do by itself, by its groups, and by what its identity provider said last.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn all_grants(&mut self, user: UserId) -> Result<Vec<Grant>> {
        let by_groups = "group_id IN (SELECT group_id FROM group_members WHERE user_id = $1 \
                         UNION SELECT group_id FROM mapped_members WHERE user_id = $1)";
        let all = [
            both("bindings", "resource_bindings", "user_id = $1"),
            both("mapped_bindings", "mapped_resource_bindings", "user_id = $1"),
            both("group_bindings", "group_resource_bindings", by_groups),
        ];
        let sql = format!("{} {ORDER}", all.join(" UNION "));
        self.read_grants(query(sql).bind(user.to_string())).await
    }

    async fn read_grants(&mut self, select: crate::db::Query) -> Result<Vec<Grant>> {
        let mut grants = Vec::new();
        for row in self.all(select).await? {
            let (kind, id) = (row.text("kind")?, row.text("resource_id")?);
            let project: Option<ProjectId> = row.maybe_id("project_id")?;
            let scope = match (project, kind.as_str()) {
                (Some(project), _) => Some(Scope::Project(project)),
                (None, "") => Some(Scope::System),
                (None, kind) => Resource::from_parts(kind, &id)?.map(Scope::Resource),
            };
            // A role or kind that this release does not know allows nothing.
            if let (Some(role), Some(scope)) = (Role::from_word(&row.text("role")?), scope) {
                grants.push(Grant { role, scope });
            }
        }
        Ok(grants)
    }

    /// Replaces what a user may do by itself. Roles on what is gone are left out.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when there is no such user.
    pub async fn set_grants(&mut self, user: UserId, grants: &[Grant]) -> Result<()> {
        self.set_grants_of(Holder::User(user), grants).await
    }

    pub(super) async fn set_grants_of(&mut self, holder: Holder, grants: &[Grant]) -> Result<()> {
        let (projects, resources, column) = holder.tables();
        for table in [projects, resources] {
            let clear = query(format!("DELETE FROM {table} WHERE {column} = $1"));
            self.run(clear.bind(holder.id())).await?;
        }
        for grant in grants {
            let role = grant.role.word();
            let project = match grant.scope {
                Scope::System => None,
                Scope::Project(project) => Some(project),
                Scope::Resource(resource) => {
                    if self.is_there(resource).await? {
                        let sql = format!(
                            "INSERT INTO {resources} ({column}, role, kind, resource_id) \
                             VALUES ($1, $2, $3, $4) \
                             ON CONFLICT ({column}, role, resource_id) DO NOTHING"
                        );
                        let insert = query(sql).bind(holder.id()).bind(role);
                        self.run(insert.bind(resource.word()).bind(resource.id())).await?;
                    }
                    continue;
                }
            };
            let sql = format!(
                "INSERT INTO {projects} ({column}, role, project_id) VALUES ($1, $2, $3) \
                 ON CONFLICT ({column}, role, project_id) DO NOTHING"
            );
            let insert = query(sql).bind(holder.id()).bind(role);
            self.run(insert.bind(text_of(project))).await?;
        }
        Ok(())
    }

    /// Whether there is such a resource.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_there(&mut self, resource: Resource) -> Result<bool> {
        let sql = format!("SELECT id FROM {} WHERE id = $1", resource.table());
        Ok(self.maybe(query(sql).bind(resource.id())).await?.is_some())
    }

    /// Ends the roles on a resource that is gone, and what identity providers say of it.
    pub(crate) async fn forget_grants_on(&mut self, resource: Resource) -> Result<()> {
        for table in ["resource_bindings", "mapped_resource_bindings", "group_resource_bindings"] {
            let forget = query(format!("DELETE FROM {table} WHERE resource_id = $1"));
            self.run(forget.bind(resource.id())).await?;
        }
        // Ids stand in documents as they are, and nowhere within something else.
        let sql = format!("SELECT id, body FROM {} WHERE body LIKE $1", IdentityProvider::TABLE);
        for row in self.all(query(sql).bind(format!("%{}%", resource.id()))).await? {
            let mut provider: IdentityProvider = row.json("body")?;
            for mapping in &mut provider.mappings {
                mapping.grants.retain(|grant| grant.scope != Scope::Resource(resource));
            }
            let sql = "UPDATE identity_providers SET body = $1, revision = revision + 1 \
                       WHERE id = $2";
            let update = sqlx::query(sql).bind(document(&provider)).bind(row.text("id")?);
            self.run(update).await?;
        }
        Ok(())
    }
}
