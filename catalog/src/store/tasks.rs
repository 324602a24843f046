//! Tasks: a queue that survives the death of whoever works on it.
//!
//! Everything that changes a task's state takes the lock `lock-dispatch` first, so that two
//! servers on one database decide one after the other.

use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, document, number, query, text_of};
use crate::error::{CatalogError, ErrorKind, Result};
use crate::found::Found;
use crate::id::{NodeId, TaskId};
use crate::listed::Listed;
use crate::model::need::needs;
use crate::model::task::{LeaseMark, NewTask, Progress, Task, TaskFilter, TaskState};
use crate::record::Page;
use crate::visible::{OF_TASK, Visible};

const COLUMNS: &str = "id, project_id, instance_id, policy_id, destination_id, kind, state, \
    priority, due_key, wanted_node, node_id, attempt, max_attempts, lease_until_ms, \
    not_before_ms, created_ms, started_ms, finished_ms, cancel_requested, revision, spec, \
    progress, result, message, from_id";

/// The same without what came of it: lists of a thousand have no place for so many documents.
const LISTED: &str = "id, project_id, instance_id, policy_id, destination_id, kind, state, \
    priority, due_key, wanted_node, node_id, attempt, max_attempts, lease_until_ms, \
    not_before_ms, created_ms, started_ms, finished_ms, cancel_requested, revision, spec, \
    progress, 'null' AS result, message, from_id";

/// Kinds of which each instance has some at each destination.
const COMMON: [&str; 4] = ["backup", "copy", "prune", "verify"];

/// A list of tasks. Of what is named, that chooses the index which leaves the fewest rows: an
/// instance has some hundreds, few tasks are in a state in which most do not end, and most kinds
/// are as rare. What is seen are `single` resources: they are few enough.
pub(crate) fn listed(filter: &TaskFilter, single: bool) -> Listed {
    let list = match filter.oldest_first {
        true => Listed::oldest("tasks", LISTED),
        false => Listed::newest("tasks", LISTED),
    };
    let state = filter.state.map_or("", TaskState::word).to_owned();
    let kind = filter.kind.clone().unwrap_or_default();
    let project = text_of(filter.project);
    let rare = filter.state.is_some_and(|state| state != TaskState::Succeeded);
    let list = list.of("instance_id", text_of(filter.instance));
    if rare && !list.is_narrow() {
        let list = list.with("state", state).with("project_id", project).also("kind", kind);
        return list
            .also("policy_id", text_of(filter.policy))
            .also("destination_id", text_of(filter.destination))
            .also("node_id", text_of(filter.node));
    }
    let named = [
        ("policy_id", text_of(filter.policy)),
        ("node_id", text_of(filter.node)),
        ("destination_id", text_of(filter.destination)),
    ];
    let (first, kind) = match named.iter().all(|(_, id)| id.is_empty()) {
        true => (String::new(), kind),
        // Of all that a destination ever did, few were of a kind that few are of.
        false if COMMON.contains(&kind.as_str()) => (String::new(), kind),
        false => (kind, String::new()),
    };
    let list = list.of_first(&[("kind", first)]).of_first(&named);
    if list.is_narrow() {
        return list.also("state", state).also("kind", kind).also("project_id", project);
    }
    let list = list.with("project_id", project);
    match (kind.is_empty(), single) {
        (true, _) => list.with("state", state),
        (false, false) => list.with("kind", kind).also("state", state),
        (false, true) => list.also("kind", kind).also("state", state),
    }
}

/// How many lost tasks are taken back at a time.
const LOOKED_AT: usize = 500;

impl Task {
    fn read(row: &AnyRow) -> Result<Self> {
        let state = TaskState::from_word(&row.text("state")?)
            .ok_or_else(|| CatalogError::new(ErrorKind::Damaged, "a task of unknown state"))?;
        let small = |column| row.count(column).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        Ok(Self {
            id: row.id("id")?,
            new: NewTask {
                project: row.maybe_id("project_id")?,
                instance: row.maybe_id("instance_id")?,
                policy: row.maybe_id("policy_id")?,
                destination: row.maybe_id("destination_id")?,
                wanted_node: row.maybe_id("wanted_node")?,
                kind: row.text("kind")?,
                priority: small("priority")?,
                due_key: row.maybe_text("due_key")?,
                max_attempts: small("max_attempts")?,
                not_before_ms: row.count("not_before_ms")?,
                spec: row.json("spec")?,
            },
            from: row.maybe_id("from_id")?,
            state,
            node: row.maybe_id("node_id")?,
            attempt: small("attempt")?,
            lease_until_ms: row.count("lease_until_ms")?,
            created_ms: row.count("created_ms")?,
            started_ms: row.maybe_count("started_ms")?,
            finished_ms: row.maybe_count("finished_ms")?,
            cancel_requested: row.count("cancel_requested")? != 0,
            revision: row.count("revision")?,
            progress: row.json("progress")?,
            result: row.json("result")?,
            message: row.text("message")?,
        })
    }
}

impl Tx {
    /// Adds a task. Returns nothing when one with the same `due_key` was added before, finished
    /// or not.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_task(&mut self, new: &NewTask, now_ms: u64) -> Result<Option<TaskId>> {
        let id = TaskId::new(now_ms);
        let sql = format!(
            "INSERT INTO tasks ({COLUMNS}, needs) VALUES ($1, $2, $3, $4, $5, $6, 'queued', $7, \
             $8, $9, '', 0, $10, 0, $11, $12, NULL, NULL, 0, 1, $13, $14, 'null', '', '', $15) \
             ON CONFLICT (due_key) DO NOTHING"
        );
        let insert = query(sql)
            .bind(id.to_string())
            .bind(text_of(new.project))
            .bind(text_of(new.instance))
            .bind(text_of(new.policy))
            .bind(text_of(new.destination))
            .bind(new.kind.clone())
            .bind(i64::from(new.priority))
            .bind(new.due_key.clone())
            .bind(text_of(new.wanted_node))
            .bind(i64::from(new.max_attempts.max(1)))
            .bind(number(new.not_before_ms))
            .bind(number(now_ms))
            .bind(document(&new.spec))
            .bind(document(&Progress::default()))
            .bind(Vec::from_iter(needs(&new.kind, &new.spec)).join(","));
        Ok((self.run(insert).await? > 0).then_some(id))
    }

    /// A task, if the caller may know of it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none, or the caller may not know.
    pub async fn task(&mut self, id: TaskId, visible: &Visible) -> Result<Task> {
        let sql = format!("SELECT {COLUMNS} FROM tasks WHERE id = $1");
        let row = self.maybe(query(sql).bind(id.to_string())).await?;
        let task = row.map(|row| Task::read(&row)).transpose()?;
        task.filter(|task| visible.sees(task.new.project, task.resource()))
            .ok_or_else(|| CatalogError::not_found(format_args!("task {id}")))
    }

    /// The tasks that the caller may know of, newest first, without what came of them.
    /// `page.after` is the oldest one shown so far.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tasks(
        &mut self,
        visible: &Visible,
        filter: &TaskFilter,
        page: &Page,
    ) -> Result<Vec<Task>> {
        self.tasks_found(visible, filter, page).await?.whole()
    }

    /// The same, with those that cannot be read apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tasks_found(
        &mut self,
        visible: &Visible,
        filter: &TaskFilter,
        page: &Page,
    ) -> Result<Found<Task>> {
        let visible = visible.of_project(filter.project);
        let list = listed(filter, visible.has_single());
        let rows = self.page_within(list, (&visible, &OF_TASK), page, &filter.added).await?;
        Found::by_id(&rows, page.limit, Task::read)
    }

    /// Whether a task waits. Cheap, and takes no lock.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn any_waiting(&mut self, now_ms: u64) -> Result<bool> {
        let waits = "SELECT id FROM tasks WHERE state = 'queued' AND not_before_ms <= $1 LIMIT 1";
        Ok(self.maybe(sqlx::query(waits).bind(number(now_ms))).await?.is_some())
    }

    /// The leases that nodes have. Takes no lock.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn leases(&mut self) -> Result<Vec<LeaseMark>> {
        let sql = "SELECT id, attempt, lease_until_ms FROM tasks WHERE state = 'running'";
        let read = |row: &AnyRow| {
            Ok(LeaseMark {
                task: row.id("id")?,
                attempt: u32::try_from(row.count("attempt")?).unwrap_or(u32::MAX),
                until_ms: row.count("lease_until_ms")?,
            })
        };
        self.each(sqlx::query(sql), read).await
    }

    /// Gives a node the lease of a task. Returns nothing when it does not wait any more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lease(
        &mut self,
        id: TaskId,
        node: NodeId,
        now_ms: u64,
        until_ms: u64,
    ) -> Result<Option<Task>> {
        self.lock("lock-dispatch").await?;
        let sql = "UPDATE tasks SET state = 'running', node_id = $1, attempt = attempt + 1, \
                   lease_until_ms = $2, started_ms = $3, message = '', progress = $4, \
                   revision = revision + 1 WHERE id = $5 AND state = 'queued'";
        let update = sqlx::query(sql)
            .bind(node.to_string())
            .bind(number(until_ms))
            .bind(number(now_ms))
            .bind(document(&Progress::default()))
            .bind(id.to_string());
        match self.run(update).await? {
            0 => Ok(None),
            _ => self.task(id, &Visible::All).await.map(Some),
        }
    }

    /// Lengthens a lease and notes how far the work is; its [`LeaseMark`] is another one then,
    /// also when the clock went back. Returns the task as it was before.
    ///
    /// # Errors
    /// [`ErrorKind::Stale`] when the lease is not the node's any more: it must stop.
    pub async fn renew(
        &mut self,
        id: TaskId,
        node: NodeId,
        attempt: u32,
        progress: Option<&Progress>,
        until_ms: u64,
    ) -> Result<Task> {
        let task = self.leased(id, node, attempt).await?;
        let changed = progress.is_some_and(|progress| *progress != task.progress);
        let sql = "UPDATE tasks SET lease_until_ms = $1, progress = $2, revision = revision + $3 \
                   WHERE id = $4";
        let update = sqlx::query(sql)
            .bind(number(until_ms + u64::from(until_ms == task.lease_until_ms)))
            .bind(document(progress.unwrap_or(&task.progress)))
            .bind(i64::from(changed))
            .bind(id.to_string());
        self.run(update).await?;
        Ok(task)
    }

    /// Ends an attempt. With `retry_at_ms` a failed task waits again, if it has attempts left.
    ///
    /// # Errors
    /// [`ErrorKind::Stale`] when the lease is not the node's any more: its report counts for
    /// nothing.
    pub async fn finish(
        &mut self,
        lease: (TaskId, NodeId, u32),
        state: TaskState,
        result: &serde_json::Value,
        message: &str,
        retry_at_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<TaskState> {
        let task = self.leased(lease.0, lease.1, lease.2).await?;
        let again = state == TaskState::Failed
            && task.attempt < task.new.max_attempts
            && !task.cancel_requested;
        let (state, wait) = match retry_at_ms.filter(|_| again) {
            Some(at) => (TaskState::Queued, Some(at)),
            None => (state, None),
        };
        let sql = "UPDATE tasks SET state = $1, finished_ms = $2, result = $3, message = $4, \
                   not_before_ms = $5, revision = revision + 1 WHERE id = $6";
        let update = sqlx::query(sql)
            .bind(state.word())
            .bind(state.is_final().then(|| number(now_ms)))
            .bind(document(result))
            .bind(message.to_owned())
            .bind(number(wait.unwrap_or(task.new.not_before_ms)))
            .bind(task.id.to_string());
        self.run(update).await?;
        Ok(state)
    }

    /// The task, if it runs on that node in that attempt.
    async fn leased(&mut self, id: TaskId, node: NodeId, attempt: u32) -> Result<Task> {
        self.lock("lock-dispatch").await?;
        let task = self.task(id, &Visible::All).await?;
        let own = task.node == Some(node) && task.attempt == attempt;
        if task.state != TaskState::Running || !own {
            let text = format!("the lease of task {id} is over");
            return Err(CatalogError::new(ErrorKind::Stale, text));
        }
        Ok(task)
    }

    /// Asks for a task's end: one that waits ends now, one that runs at its next report.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it has ended already.
    pub async fn cancel(&mut self, id: TaskId, now_ms: u64) -> Result<Task> {
        self.lock("lock-dispatch").await?;
        let task = self.task(id, &Visible::All).await?;
        if task.state.is_final() {
            return Err(CatalogError::new(ErrorKind::Conflict, "this task has ended already"));
        }
        let (state, finished) = match task.state {
            TaskState::Queued => (TaskState::Cancelled, Some(number(now_ms))),
            other => (other, None),
        };
        let sql = "UPDATE tasks SET cancel_requested = 1, state = $1, finished_ms = $2, \
                   revision = revision + 1 WHERE id = $3";
        let update = sqlx::query(sql).bind(state.word()).bind(finished).bind(id.to_string());
        self.run(update).await?;
        self.task(id, &Visible::All).await
    }

    /// Takes back leases that are over, those of which nothing was heard meanwhile: their tasks
    /// wait again, or end when they have no attempt left. Returns them as they are now. Those that
    /// cannot be read end, and are not returned.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn reclaim(&mut self, over: &[LeaseMark], now_ms: u64) -> Result<Vec<Task>> {
        self.lock("lock-dispatch").await?;
        let sql = format!(
            "SELECT {COLUMNS} FROM tasks WHERE id = $1 AND state = 'running' AND attempt = $2 \
             AND lease_until_ms = $3"
        );
        let mut rows = Vec::new();
        for mark in over.iter().take(LOOKED_AT) {
            let select = query(sql.clone()).bind(mark.task.to_string());
            let select = select.bind(i64::from(mark.attempt)).bind(number(mark.until_ms));
            rows.extend(self.maybe(select).await?);
        }
        let message = "the node that ran it was not heard of any more";
        self.take_back(&rows, message, now_ms).await
    }

    /// Takes back all leases of a node that was started again and runs nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn reclaim_node(&mut self, node: NodeId, now_ms: u64) -> Result<Vec<Task>> {
        self.lock("lock-dispatch").await?;
        let sql = format!(
            "SELECT {COLUMNS} FROM tasks WHERE state IN ('queued', 'running') \
             AND state = 'running' AND node_id = $1"
        );
        let rows = self.all(query(sql).bind(node.to_string())).await?;
        self.take_back(&rows, "the node that ran it was started again", now_ms).await
    }

    /// Ends tasks that wait for a node which is no longer there: nobody else may do them.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_of_no_node(&mut self, now_ms: u64) -> Result<u64> {
        let waits = "state = 'queued' AND wanted_node <> '' \
                     AND wanted_node NOT IN (SELECT id FROM nodes)";
        let found =
            self.maybe(query(format!("SELECT id FROM tasks WHERE {waits} LIMIT 1"))).await?;
        if found.is_none() {
            return Ok(0);
        }
        self.lock("lock-dispatch").await?;
        let sql = format!(
            "UPDATE tasks SET state = 'failed', message = $1, finished_ms = $2, \
             revision = revision + 1 WHERE {waits}"
        );
        let message = "the node that it waited for is no longer there";
        let end = query(sql).bind(message.to_owned()).bind(number(now_ms));
        self.run(end).await
    }

    /// Notes how large what a running backup protects is: it counts for [`Tx::in_use`] as long as
    /// the backup runs.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_size(&mut self, id: TaskId, size_bytes: u64) -> Result<()> {
        let sql = "UPDATE tasks SET size_bytes = $1 WHERE id = $2";
        self.run(sqlx::query(sql).bind(number(size_bytes)).bind(id.to_string())).await.map(drop)
    }

    /// Asks for the end of a task that runs, with the reason as its message until it has ended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn stop_with(&mut self, id: TaskId, message: &str) -> Result<()> {
        self.lock("lock-dispatch").await?;
        let sql = "UPDATE tasks SET cancel_requested = 1, message = $1, revision = revision + 1 \
                   WHERE id = $2 AND state = 'running'";
        let update = sqlx::query(sql).bind(message.to_owned()).bind(id.to_string());
        self.run(update).await.map(drop)
    }

    /// Ends a task that cannot be read.
    async fn end_unreadable(&mut self, id: &str, why: &CatalogError, now_ms: u64) -> Result<()> {
        let sql = "UPDATE tasks SET state = 'failed', finished_ms = $1, message = $2, \
                   revision = revision + 1 WHERE id = $3";
        let update = sqlx::query(sql).bind(number(now_ms)).bind(why.to_string());
        self.run(update.bind(id.to_owned())).await.map(drop)
    }

    async fn take_back(
        &mut self,
        rows: &[AnyRow],
        message: &str,
        now_ms: u64,
    ) -> Result<Vec<Task>> {
        let mut reclaimed = Vec::new();
        for row in rows {
            let task = match Task::read(row) {
                Ok(task) => task,
                // Nobody can be told what it is to do, and the others go on.
                Err(error) => {
                    self.end_unreadable(&row.text("id")?, &error, now_ms).await?;
                    continue;
                }
            };
            let state = if task.cancel_requested {
                TaskState::Cancelled
            } else if task.attempt >= task.new.max_attempts {
                TaskState::Failed
            } else {
                TaskState::Queued
            };
            let sql = "UPDATE tasks SET state = $1, finished_ms = $2, message = $3, \
                       not_before_ms = $4, revision = revision + 1 WHERE id = $5";
            let update = sqlx::query(sql)
                .bind(state.word())
                .bind(state.is_final().then(|| number(now_ms)))
                .bind(message.to_owned())
                // At once, also when the clock is set back meanwhile.
                .bind(0)
                .bind(task.id.to_string());
            self.run(update).await?;
            reclaimed.push(self.task(task.id, &Visible::All).await?);
        }
        Ok(reclaimed)
    }
}
