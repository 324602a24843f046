//! Who needs a record: it is not removed while somebody does.
//!
//! Ids stand in documents as they are, and nowhere within something else: a record that names
//! another one has its id in its text.

use crate::db::{Columns, Tx, query};
use crate::error::{CatalogError, ErrorKind, Result};
use crate::id::GroupId;
use crate::model::grant::Resource;
use crate::record::{Kind, Record};
use crate::visible::Visible;

/// How many of those who need something are named.
const NAMED: usize = 5;

/// How something needs a record.
#[derive(Debug, Clone, Copy)]
enum Use {
    /// Records of this table, which are called by this word, belong to it.
    Belongs(&'static str, &'static str),
    /// Records of this table, which are called by this word, name it.
    Names(&'static str, &'static str),
    /// There are rows of this table with it in a column, and they are called so.
    Rows(&'static str, &'static str, &'static str),
    /// A setting names it, which is called so.
    Setting(&'static str, &'static str),
}

/// Who may need records of a table.
fn uses(table: &str) -> &'static [Use] {
    use Use::{Belongs, Names, Rows, Setting};
    match table {
        "projects" => &[
            Belongs("instances", "instance"),
            Belongs("policies", "policy"),
            Belongs("destinations", "destination"),
            Belongs("plans", "plan"),
            Belongs("inventories", "inventory"),
            Names("policies", "policy"),
            Names("destinations", "destination"),
            Names("identity_providers", "identity provider"),
            Rows("bindings", "project_id", "the roles that users have in it"),
            Rows("group_bindings", "project_id", "the roles that groups have in it"),
            Rows("mapped_bindings", "project_id", "the roles that identity providers give in it"),
            Setting("notify", "the notifications"),
        ],
        "destinations" => &[
            Rows("points", "destination_id", "its restore points"),
            Names("policies", "policy"),
            Names("plans", "plan"),
            Names("nodes", "node"),
            Names("node_configs", "node configuration"),
            Setting("self-backup", "the backup of the server"),
        ],
        "instances" => &[
            Rows("points", "instance_id", "its restore points"),
            Rows("snapshots", "instance_id", "its snapshots"),
            Names("plans", "plan"),
        ],
        "nodes" => &[
            Names("instances", "instance"),
            Names("inventories", "inventory"),
            Names("policies", "policy"),
            Names("plans", "plan"),
        ],
        _ => &[],
    }
}

impl Tx {
    /// Refuses when something else needs the record: a project with content, a destination of a
    /// policy or plan or with restore points, an instance with restore points. Who that is, is
    /// told as far as the caller may know of it.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] with who needs it.
    pub async fn refuse_if_used<K: Kind>(
        &mut self,
        record: &Record<K>,
        visible: &Visible,
    ) -> Result<()> {
        let id = record.id.to_string();
        if K::TABLE == "projects" {
            // What is being added to it is there then, and nothing more is added.
            let sql = "UPDATE projects SET revision = revision WHERE id = $1";
            self.run(sqlx::query(sql).bind(id.clone())).await?;
        }
        let mut users = Vec::new();
        for one in uses(K::TABLE) {
            self.users_by(*one, &id, visible, &mut users).await?;
        }
        refused(K::WORD, users)
    }

    /// Refuses when an identity provider puts people into a group.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] with who needs it.
    pub async fn refuse_if_group_is_used(&mut self, id: GroupId) -> Result<()> {
        let (mut users, id) = (Vec::new(), id.to_string());
        let provider = Use::Names("identity_providers", "identity provider");
        self.users_by(provider, &id, &Visible::All, &mut users).await?;
        refused("group", users)
    }

    /// Who needs it in this way, one more than are named.
    async fn users_by(
        &mut self,
        one: Use,
        id: &str,
        visible: &Visible,
        users: &mut Vec<String>,
    ) -> Result<()> {
        let (table, word, condition, value) = match one {
            Use::Belongs(table, word) => (table, word, "t.project_id = $1", id.to_owned()),
            Use::Names(table, word) => (table, word, "t.body LIKE $1", format!("%{id}%")),
            Use::Rows(table, column, called) => {
                let there = match table {
                    "points" => "AND removed_ms IS NULL ",
                    "snapshots" => "AND state <> 'gone' ",
                    _ => "",
                };
                let sql =
                    format!("SELECT 1 AS one FROM {table} WHERE {column} = $1 {there}LIMIT 1");
                let found = self.maybe(query(sql).bind(id.to_owned())).await?;
                users.extend(found.map(|_| called.to_owned()));
                return Ok(());
            }
            Use::Setting(name, called) => {
                let text = self.setting(name).await?.unwrap_or_default();
                users.extend(text.contains(id).then(|| called.to_owned()));
                return Ok(());
            }
        };
        let sql = format!(
            "SELECT t.id AS id, t.project_id AS project_id, t.name AS name, (SELECT o.name \
             FROM projects o WHERE o.id = t.project_id) AS project_name FROM {table} t \
             WHERE {condition} ORDER BY t.id LIMIT {}",
            NAMED + 1
        );
        for row in self.all(query(sql).bind(value)).await? {
            let resource = Resource::from_parts(word, &row.text("id")?).ok().flatten();
            let (name, project) = (row.text("name")?, row.maybe_text("project_name")?);
            let called = match (visible.sees(row.maybe_id("project_id")?, resource), project) {
                (false, _) => format!("a {word} that you may not know of"),
                (true, Some(project)) => format!("{word} {project}/{name}"),
                (true, None) => format!("{word} {name}"),
            };
            if !users.contains(&called) {
                users.push(called);
            }
        }
        Ok(())
    }
}

/// The refusal, if somebody needs it.
fn refused(word: &str, mut users: Vec<String>) -> Result<()> {
    if users.is_empty() {
        return Ok(());
    }
    if users.len() > NAMED {
        users.truncate(NAMED);
        users.push("others".to_owned());
    }
    let last = users.pop().unwrap_or_default();
    let all = match users.is_empty() {
        true => last,
        false => format!("{} and {last}", users.join(", ")),
    };
    Err(CatalogError::new(ErrorKind::Conflict, format!("the {word} is needed by {all}")))
}
