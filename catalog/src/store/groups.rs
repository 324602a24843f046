//! Groups of users.

use sqlx::any::AnyRow;

use super::grants::Holder;
use crate::db::{Columns, Tx, number, query};
use crate::error::{CatalogError, ErrorKind, Result};
use crate::id::{GroupId, UserId};
use crate::model::access::Group;
use crate::model::grant::Grant;
use crate::record::{Page, check_name};
use crate::sought::Sought;

const COLUMNS: &str = "id, name, revision, created_ms, updated_ms";

/// What a group is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewGroup {
    /// For people; unique.
    pub name: String,
    /// Who is in it.
    pub members: Vec<UserId>,
    /// What they may do.
    pub grants: Vec<Grant>,
}

impl Tx {
    async fn read_group(&mut self, row: &AnyRow) -> Result<Group> {
        let id: GroupId = row.id("id")?;
        let sql = "SELECT user_id FROM group_members WHERE group_id = $1 ORDER BY user_id";
        let rows = self.all(sqlx::query(sql).bind(id.to_string())).await?;
        let members = rows.iter().map(|row| row.id("user_id")).collect::<Result<_>>()?;
        let grants = self.grants_of(Holder::Group(id)).await?;
        Ok(Group {
            id,
            name: row.text("name")?,
            revision: row.count("revision")?,
            created_ms: row.count("created_ms")?,
            updated_ms: row.count("updated_ms")?,
            members,
            grants,
        })
    }

    /// The groups whose names match a pattern, in small letters or large, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn groups_called(&mut self, pattern: &str, page: &Page) -> Result<Vec<Group>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM user_groups WHERE id > $1 \
             AND LOWER(name) LIKE LOWER($3) ESCAPE '!' ORDER BY id LIMIT $2"
        );
        let select = query(sql)
            .bind(page.after.clone().unwrap_or_default())
            .bind(i64::from(page.limit.min(Page::LARGEST)))
            .bind(Sought::like(pattern));
        let mut groups = Vec::new();
        for row in self.all(select).await? {
            groups.push(self.read_group(&row).await?);
        }
        Ok(groups)
    }

    /// A group.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none.
    pub async fn group(&mut self, id: GroupId) -> Result<Group> {
        let select = query(format!("SELECT {COLUMNS} FROM user_groups WHERE id = $1"));
        let row = self.maybe(select.bind(id.to_string())).await?;
        let row = row.ok_or_else(|| CatalogError::not_found(format_args!("group {id}")))?;
        self.read_group(&row).await
    }

    /// Adds a group.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the name is taken or somebody named is not there.
    pub async fn add_group(&mut self, new: &NewGroup, now_ms: u64) -> Result<Group> {
        check_name("group", &new.name)?;
        let id = GroupId::new(now_ms);
        let sql = "INSERT INTO user_groups (id, name, revision, created_ms, updated_ms) \
                   VALUES ($1, $2, 1, $3, $3)";
        let insert = sqlx::query(sql).bind(id.to_string()).bind(new.name.clone());
        self.run(insert.bind(number(now_ms))).await?;
        self.fill_group(id, new).await?;
        self.group(id).await
    }

    /// Replaces what a group is; `revision` is the one the change is based on.
    ///
    /// # Errors
    /// [`ErrorKind::Stale`] when somebody else has changed it meanwhile, and those of
    /// [`Tx::add_group`].
    pub async fn change_group(
        &mut self,
        id: GroupId,
        revision: u64,
        new: &NewGroup,
        now_ms: u64,
    ) -> Result<Group> {
        check_name("group", &new.name)?;
        let sql = "UPDATE user_groups SET name = $1, updated_ms = $2, revision = revision + 1 \
                   WHERE id = $3 AND revision = $4";
        let update = sqlx::query(sql)
            .bind(new.name.clone())
            .bind(number(now_ms))
            .bind(id.to_string())
            .bind(number(revision));
        if self.run(update).await? == 0 {
            let text = "the group was changed by somebody else";
            return Err(CatalogError::new(ErrorKind::Stale, text));
        }
        let clear = sqlx::query("DELETE FROM group_members WHERE group_id = $1");
        self.run(clear.bind(id.to_string())).await?;
        self.fill_group(id, new).await?;
        self.group(id).await
    }

    async fn fill_group(&mut self, id: GroupId, new: &NewGroup) -> Result<()> {
        for member in &new.members {
            let sql = "INSERT INTO group_members (group_id, user_id) VALUES ($1, $2) \
                       ON CONFLICT (group_id, user_id) DO NOTHING";
            self.run(sqlx::query(sql).bind(id.to_string()).bind(member.to_string())).await?;
        }
        self.set_grants_of(Holder::Group(id), &new.grants).await
    }

    /// Removes a group; its members stay.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none.
    pub async fn delete_group(&mut self, id: GroupId) -> Result<()> {
        let delete = sqlx::query("DELETE FROM user_groups WHERE id = $1").bind(id.to_string());
        if self.run(delete).await? == 0 {
            return Err(CatalogError::not_found(format_args!("group {id}")));
        }
        Ok(())
    }
}
