//! Certificates of nodes, by their fingerprints. One that is not here is not accepted, whoever has
//! signed it: so a node that is removed has none any more.

use std::collections::BTreeMap;

use crate::db::{Columns, Tx, number};
use crate::error::{CatalogError, ErrorKind, Result};
use crate::id::NodeId;

/// What is known of a node's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeCertificate {
    /// Whose it is.
    pub node: NodeId,
    /// When it was made, in milliseconds since 1970.
    pub issued_ms: u64,
    /// When it ends, in milliseconds since 1970; earlier than it says of itself when another has
    /// taken its place.
    pub expires_ms: u64,
    /// When it was shown first.
    pub used_ms: Option<u64>,
}

impl Tx {
    /// Notes a certificate that was made for a node.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_certificate(
        &mut self,
        node: NodeId,
        fingerprint: &str,
        issued_ms: u64,
        expires_ms: u64,
    ) -> Result<()> {
        let sql = "INSERT INTO node_certificates (fingerprint, node_id, issued_ms, expires_ms) \
                   VALUES ($1, $2, $3, $4)";
        let insert = sqlx::query(sql).bind(fingerprint.to_owned()).bind(node.to_string());
        self.run(insert.bind(number(issued_ms)).bind(number(expires_ms))).await.map(drop)
    }

    /// What is known of the certificate of this fingerprint.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn certificate(&mut self, fingerprint: &str) -> Result<Option<NodeCertificate>> {
        let sql = "SELECT node_id, issued_ms, expires_ms, used_ms FROM node_certificates \
                   WHERE fingerprint = $1";
        let row = self.maybe(sqlx::query(sql).bind(fingerprint.to_owned())).await?;
        let read = |row: sqlx::any::AnyRow| {
            Ok(NodeCertificate {
                node: row.id("node_id")?,
                issued_ms: row.count("issued_ms")?,
                expires_ms: row.count("expires_ms")?,
                used_ms: row.maybe_count("used_ms")?,
            })
        };
        row.map(read).transpose()
    }

    /// Notes that a node has shown a certificate for the first time: those it had before end at
    /// `others_until_ms`, and a token it had counts no more. Returns whether it had one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn certificate_used(
        &mut self,
        node: NodeId,
        fingerprint: &str,
        now_ms: u64,
        others_until_ms: u64,
    ) -> Result<bool> {
        let sql = "UPDATE node_certificates SET used_ms = $1 WHERE fingerprint = $2";
        self.run(sqlx::query(sql).bind(number(now_ms)).bind(fingerprint.to_owned())).await?;
        let sql = "UPDATE node_certificates SET expires_ms = $1 \
                   WHERE node_id = $2 AND fingerprint <> $3 AND expires_ms > $1";
        let shorten = sqlx::query(sql).bind(number(others_until_ms)).bind(node.to_string());
        self.run(shorten.bind(fingerprint.to_owned())).await?;
        self.end_node_token(node).await
    }

    /// Ends all certificates of a node at once, and a token it has.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_certificates(&mut self, node: NodeId) -> Result<()> {
        let delete = sqlx::query("DELETE FROM node_certificates WHERE node_id = $1");
        self.run(delete.bind(node.to_string())).await?;
        self.end_node_token(node).await.map(drop)
    }

    /// No token has such a hash, and no two nodes have the same.
    async fn end_node_token(&mut self, node: NodeId) -> Result<bool> {
        let none = format!("none-{node}");
        let sql =
            "UPDATE node_presence SET token_hash = $1 WHERE node_id = $2 AND token_hash <> $1";
        Ok(self.run(sqlx::query(sql).bind(none).bind(node.to_string())).await? > 0)
    }

    /// When the certificates of nodes end, in milliseconds since 1970, of each the last.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn certificate_ends(&mut self) -> Result<BTreeMap<NodeId, u64>> {
        let sql = "SELECT node_id, MAX(expires_ms) AS last FROM node_certificates GROUP BY node_id";
        let rows = self.all(sqlx::query(sql)).await?;
        rows.iter().map(|row| Ok((row.id("node_id")?, row.count("last")?))).collect()
    }

    /// Uses up a join token. Returns the node that it is for, when it is for one that is there.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such token (any more).
    pub async fn use_join_token(&mut self, hash: &str, now_ms: u64) -> Result<Option<NodeId>> {
        let select = sqlx::query("SELECT node_id FROM join_tokens WHERE token_hash = $1");
        let row = self.maybe(select.bind(hash.to_owned())).await?;
        let sql = "DELETE FROM join_tokens WHERE token_hash = $1 AND expires_ms > $2";
        let used = sqlx::query(sql).bind(hash.to_owned()).bind(number(now_ms));
        match (row, self.run(used).await?) {
            (Some(row), 1) => row.maybe_id("node_id"),
            _ => {
                let text = "this token lets no node join: it was used, or is too old";
                Err(CatalogError::new(ErrorKind::NotFound, text))
            }
        }
    }

    /// Says which node a join token is for: it comes back as what it was.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn bind_join_token(&mut self, hash: &str, node: NodeId) -> Result<()> {
        let sql = "UPDATE join_tokens SET node_id = $1 WHERE token_hash = $2";
        self.run(sqlx::query(sql).bind(node.to_string()).bind(hash.to_owned())).await.map(drop)
    }
}
