//! Nodes: joining, and signs of life.

use std::collections::BTreeMap;

use crate::db::{Columns, Tx, number};
use crate::error::{CatalogError, ErrorKind, Result};
use crate::id::NodeId;
use crate::model::node::{Node, NodeLiveness};
use crate::record::Record;

impl Tx {
    /// Lets one node join with the token of this hash until it expires.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_join_token(&mut self, hash: &str, now_ms: u64, expires_ms: u64) -> Result<()> {
        let forget = sqlx::query("DELETE FROM join_tokens WHERE expires_ms < $1");
        self.run(forget.bind(number(now_ms))).await?;
        let sql =
            "INSERT INTO join_tokens (token_hash, created_ms, expires_ms) VALUES ($1, $2, $3)";
        let insert = sqlx::query(sql).bind(hash.to_owned());
        self.run(insert.bind(number(now_ms)).bind(number(expires_ms))).await.map(drop)
    }

    /// Adds a node that has shown a join token, which is used up. `hash` is that of the node's
    /// own token from now on.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such token (any more), [`ErrorKind::Conflict`]
    /// when a node of that name has joined.
    pub async fn join(
        &mut self,
        join_hash: &str,
        name: &str,
        node: Node,
        hash: &str,
        now_ms: u64,
    ) -> Result<Record<Node>> {
        if self.use_join_token(join_hash, now_ms).await?.is_some() {
            let text = "this token is for a node that is there already";
            return Err(CatalogError::new(ErrorKind::Conflict, text));
        }
        self.add_node(name, node, hash, now_ms).await
    }

    /// Adds a node. `hash` is that of the node's own token.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when a node of that name has joined.
    pub async fn add_node(
        &mut self,
        name: &str,
        node: Node,
        hash: &str,
        now_ms: u64,
    ) -> Result<Record<Node>> {
        let record = self.insert(None, name, node, now_ms).await?;
        let sql = "INSERT INTO node_presence (node_id, token_hash, last_seen_ms) \
                   VALUES ($1, $2, $3)";
        let insert = sqlx::query(sql).bind(record.id.to_string()).bind(hash.to_owned());
        self.run(insert.bind(number(now_ms))).await?;
        Ok(record)
    }

    /// Gives a node another token; the one before does not count any more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_node_token(&mut self, node: NodeId, hash: &str, now_ms: u64) -> Result<()> {
        let sql = "UPDATE node_presence SET token_hash = $1, last_seen_ms = $2 WHERE node_id = $3";
        let update = sqlx::query(sql).bind(hash.to_owned()).bind(number(now_ms));
        self.run(update.bind(node.to_string())).await.map(drop)
    }

    /// The node that has the token of this hash.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none.
    pub async fn node_by_token(&mut self, hash: &str) -> Result<NodeId> {
        let select = sqlx::query("SELECT node_id FROM node_presence WHERE token_hash = $1");
        let row = self.maybe(select.bind(hash.to_owned())).await?;
        row.ok_or_else(|| CatalogError::not_found("node with this token"))?.id("node_id")
    }

    /// Notes that a node was heard of.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn node_seen(&mut self, node: NodeId, now_ms: u64) -> Result<()> {
        let sql = "UPDATE node_presence SET last_seen_ms = $1 WHERE node_id = $2";
        self.run(sqlx::query(sql).bind(number(now_ms)).bind(node.to_string())).await.map(drop)
    }

    /// When nodes were heard of last, and how much they run.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn liveness(&mut self) -> Result<BTreeMap<NodeId, NodeLiveness>> {
        let sql = "SELECT p.node_id, p.last_seen_ms, \
                   (SELECT COUNT(*) FROM tasks t WHERE t.node_id = p.node_id \
                    AND t.state IN ('queued', 'running') AND t.state = 'running') AS running \
                   FROM node_presence p";
        let mut all = BTreeMap::new();
        for row in self.all(sqlx::query(sql)).await? {
            let (last_seen_ms, running) = (row.count("last_seen_ms")?, row.count("running")?);
            all.insert(row.id("node_id")?, NodeLiveness { last_seen_ms, running });
        }
        Ok(all)
    }
}
