//! What inventories have found, and what came of the last look.

use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, document, number, query};
use crate::error::Result;
use crate::found::Found;
use crate::id::{InstanceId, InventoryId};
use crate::model::inventory::{Finding, Looked};
use crate::record::Page;

const COLUMNS: &str =
    "instance_id, inventory_id, place, source, identity, format, size_bytes, gone_ms";

impl Finding {
    fn read(row: &AnyRow) -> Result<Self> {
        Ok(Self {
            instance: row.id("instance_id")?,
            inventory: row.id("inventory_id")?,
            place: row.text("place")?,
            source: row.json("source")?,
            identity: row.text("identity")?,
            format: row.text("format")?,
            size_bytes: row.count("size_bytes")?,
            gone_ms: Some(row.count("gone_ms")?).filter(|at| *at > 0),
        })
    }
}

impl Tx {
    /// Notes where an instance was found, and as what.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when something else was found there, or one of them is gone.
    pub async fn set_found(&mut self, found: &Finding) -> Result<()> {
        let sql = format!(
            "INSERT INTO found_instances ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
             ON CONFLICT (instance_id) DO UPDATE SET inventory_id = excluded.inventory_id, \
             place = excluded.place, source = excluded.source, identity = excluded.identity, \
             format = excluded.format, size_bytes = excluded.size_bytes, \
             gone_ms = excluded.gone_ms"
        );
        let insert = query(sql)
            .bind(found.instance.to_string())
            .bind(found.inventory.to_string())
            .bind(found.place.clone())
            .bind(document(&found.source))
            .bind(found.identity.clone())
            .bind(found.format.clone())
            .bind(number(found.size_bytes))
            .bind(number(found.gone_ms.unwrap_or(0)));
        self.run(insert).await.map(drop)
    }

    /// Forgets that an instance was found: it is as one that was made by hand.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_found(&mut self, instance: InstanceId) -> Result<()> {
        let sql = "DELETE FROM found_instances WHERE instance_id = $1";
        self.run(sqlx::query(sql).bind(instance.to_string())).await.map(drop)
    }

    /// A part of what an inventory has found, in the order of places; the place before is
    /// `page.after`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn found(&mut self, inventory: InventoryId, page: &Page) -> Result<Vec<Finding>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM found_instances WHERE inventory_id = $1 AND place > $2 \
             ORDER BY place LIMIT $3"
        );
        let select = query(sql)
            .bind(inventory.to_string())
            .bind(page.after.clone().unwrap_or_default())
            .bind(i64::from(page.limit.min(Page::LARGEST)));
        self.all(select).await?.iter().map(Finding::read).collect()
    }

    /// What was seen to be gone since a time, a thousand at most. Those that cannot be read are
    /// apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn gone_since(&mut self, since_ms: u64) -> Result<Found<Finding>> {
        let sql = format!(
            "SELECT instance_id AS id, {COLUMNS} FROM found_instances WHERE gone_ms >= $1 \
             ORDER BY gone_ms LIMIT $2"
        );
        let select = query(sql).bind(number(since_ms.max(1))).bind(i64::from(Page::LARGEST));
        Found::apart(&self.all(select).await?, Finding::read)
    }

    /// What came of the last look; nothing before the first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn looked(&mut self, inventory: InventoryId) -> Result<Option<Looked>> {
        let sql = "SELECT body FROM inventory_looks WHERE inventory_id = $1";
        let row = self.maybe(sqlx::query(sql).bind(inventory.to_string())).await?;
        row.map(|row| row.json("body")).transpose()
    }

    /// The last looks that have not noted as gone what is gone. Those that cannot be read are
    /// apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn held_looks(&mut self) -> Result<Found<(InventoryId, Looked)>> {
        let sql = "SELECT inventory_id AS id, body FROM inventory_looks WHERE body NOT LIKE $1";
        let rows = self.all(sqlx::query(sql).bind("%\"held\":0,%".to_owned())).await?;
        Found::apart(&rows, |row| Ok((row.id("id")?, row.json("body")?)))
    }

    /// Notes what came of a look.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when the inventory is gone.
    pub async fn set_looked(&mut self, inventory: InventoryId, looked: &Looked) -> Result<()> {
        let sql = "INSERT INTO inventory_looks (inventory_id, body) VALUES ($1, $2) \
                   ON CONFLICT (inventory_id) DO UPDATE SET body = excluded.body";
        let set = sqlx::query(sql).bind(inventory.to_string()).bind(document(looked));
        self.run(set).await.map(drop)
    }

    /// Whether a task that looks through an inventory waits or runs: one that is no dry run, when
    /// it is to note what it finds.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_looked_through(
        &mut self,
        inventory: InventoryId,
        noting: bool,
    ) -> Result<bool> {
        // Ids stand in documents as they are, and nowhere within something else.
        let sql = "SELECT spec FROM tasks WHERE state IN ('queued', 'running') \
                   AND kind || '' = 'inventory' AND spec LIKE $1";
        let dry = |row: &AnyRow| -> Result<bool> {
            Ok(row.json::<serde_json::Value>("spec")?["dry_run"] == true)
        };
        for row in self.all(sqlx::query(sql).bind(format!("%{inventory}%"))).await? {
            if !noting || !dry(&row)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
