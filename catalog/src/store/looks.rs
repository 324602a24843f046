//! Questions about the files of mounts, for nodes that wait at another server than the one that
//! was asked.

use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, number};
use crate::error::Result;
use crate::id::NodeId;

/// Questions that are looked at in one go.
const LOOKED_AT: i64 = 64;

/// A question that no node has taken yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingLook {
    /// Names it.
    pub id: String,
    /// Who is asked.
    pub node: NodeId,
    /// What, as the contract with nodes has it.
    pub question: String,
}

impl Tx {
    /// Asks a question.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when the node is gone.
    pub async fn add_look(&mut self, look: &WaitingLook, now_ms: u64) -> Result<()> {
        let sql = "INSERT INTO looks (id, node_id, created_ms, taken_ms, question, answer) \
                   VALUES ($1, $2, $3, 0, $4, '')";
        let insert = sqlx::query(sql)
            .bind(look.id.clone())
            .bind(look.node.to_string())
            .bind(number(now_ms))
            .bind(look.question.clone());
        self.run(insert).await.map(drop)
    }

    /// Questions for a node that wait since `since_ms`, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn looks_waiting(&mut self, node: NodeId, since_ms: u64) -> Result<Vec<WaitingLook>> {
        let sql = format!(
            "SELECT id, node_id, question FROM looks WHERE taken_ms = 0 AND node_id = $1 \
             AND created_ms >= $2 ORDER BY created_ms, id LIMIT {LOOKED_AT}"
        );
        let read = |row: &AnyRow| {
            let (id, node) = (row.text("id")?, row.id("node_id")?);
            Ok(WaitingLook { id, node, question: row.text("question")? })
        };
        let select = crate::db::query(sql).bind(node.to_string()).bind(number(since_ms));
        self.all(select).await?.iter().map(read).collect()
    }

    /// Takes a question to its node; returns whether nobody else has.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn take_look(&mut self, id: &str, now_ms: u64) -> Result<bool> {
        let sql = "UPDATE looks SET taken_ms = $1 WHERE id = $2 AND taken_ms = 0";
        let take = sqlx::query(sql).bind(number(now_ms)).bind(id.to_owned());
        Ok(self.run(take).await? > 0)
    }

    /// Keeps what a node answers, once, if somebody still wants to know.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn answer_look(&mut self, id: &str, node: NodeId, answer: &str) -> Result<bool> {
        let sql = "UPDATE looks SET answer = $1 WHERE id = $2 AND node_id = $3 AND answer = '' \
                   AND taken_ms > 0";
        let keep = sqlx::query(sql).bind(answer.to_owned()).bind(id.to_owned());
        Ok(self.run(keep.bind(node.to_string())).await? > 0)
    }

    /// What was answered, if anything was.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn look_answer(&mut self, id: &str) -> Result<Option<String>> {
        let select = sqlx::query("SELECT answer FROM looks WHERE id = $1 AND answer <> ''");
        let row = self.maybe(select.bind(id.to_owned())).await?;
        row.map(|row| row.text("answer")).transpose()
    }

    /// Removes a question, and all that were asked before `before_ms`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_look(&mut self, id: &str, before_ms: u64) -> Result<()> {
        let remove = sqlx::query("DELETE FROM looks WHERE id = $1 OR created_ms < $2");
        self.run(remove.bind(id.to_owned()).bind(number(before_ms))).await.map(drop)
    }
}
