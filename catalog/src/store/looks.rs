//! Questions about the files of mounts, for nodes that wait at another server than the one that
//! was asked.

use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, number, query};
use crate::error::Result;
use crate::id::NodeId;

/// Questions that are looked at in one go.
const LOOKED_AT: i64 = 500;
/// Questions that are named in one statement.
const AT_ONCE: usize = 500;

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

    /// Questions that wait since `since_ms`, the oldest first, for whatever node.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn looks_waiting(&mut self, since_ms: u64) -> Result<Vec<WaitingLook>> {
        let sql = format!(
            "SELECT id, node_id, question FROM looks WHERE taken_ms = 0 AND created_ms >= $1 \
             ORDER BY created_ms, id LIMIT {LOOKED_AT}"
        );
        let read = |row: &AnyRow| {
            let (id, node) = (row.text("id")?, row.id("node_id")?);
            Ok(WaitingLook { id, node, question: row.text("question")? })
        };
        self.all(query(sql).bind(number(since_ms))).await?.iter().map(read).collect()
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

    /// Keeps what a node answers, once, if somebody still wants to know what was asked since
    /// `since_ms`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn answer_look(
        &mut self,
        id: &str,
        node: NodeId,
        answer: &str,
        since_ms: u64,
    ) -> Result<bool> {
        let sql = "UPDATE looks SET answer = $1 WHERE id = $2 AND node_id = $3 AND answer = '' \
                   AND taken_ms > 0 AND created_ms >= $4";
        let keep = sqlx::query(sql).bind(answer.to_owned()).bind(id.to_owned());
        Ok(self.run(keep.bind(node.to_string()).bind(number(since_ms))).await? > 0)
    }

    /// What was answered of these questions, by their ids.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn look_answers(&mut self, ids: &[String]) -> Result<Vec<(String, String)>> {
        let mut answers = Vec::new();
        for part in ids.chunks(AT_ONCE) {
            let places: Vec<String> = (1..=part.len()).map(|at| format!("${at}")).collect();
            let sql = format!(
                "SELECT id, answer FROM looks WHERE id IN ({}) AND answer <> ''",
                places.join(", ")
            );
            let select = part.iter().fold(query(sql), |select, id| select.bind(id.clone()));
            for row in self.all(select).await? {
                answers.push((row.text("id")?, row.text("answer")?));
            }
        }
        Ok(answers)
    }

    /// Removes a question and what was answered.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_look(&mut self, id: &str) -> Result<()> {
        let remove = sqlx::query("DELETE FROM looks WHERE id = $1");
        self.run(remove.bind(id.to_owned())).await.map(drop)
    }

    /// Whether there is a question that was asked before `before_ms`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn has_old_looks(&mut self, before_ms: u64) -> Result<bool> {
        let select = sqlx::query("SELECT id FROM looks WHERE created_ms < $1 LIMIT 1");
        Ok(self.maybe(select.bind(number(before_ms))).await?.is_some())
    }

    /// Removes all that were asked before `before_ms`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_old_looks(&mut self, before_ms: u64) -> Result<()> {
        let remove = sqlx::query("DELETE FROM looks WHERE created_ms < $1");
        self.run(remove.bind(number(before_ms))).await.map(drop)
    }
}
