//! Runs of recovery plans.

use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, document, number, query, text_of};
use crate::error::{CatalogError, ErrorKind, Result};
use crate::found::Found;
use crate::id::PlanRunId;
use crate::listed::Listed;
use crate::model::grant::Resource;
use crate::model::plan::PlanMode;
use crate::model::plan_run::{PlanRun, PlanRunFilter, PlanRunState};
use crate::record::Page;
use crate::visible::{Visible, Whose};

const COLUMNS: &str = "id, project_id, plan_id, plan_name, mode, state, due_key, revision, \
                       created_ms, finished_ms, message, body";
/// Runs that are looked at in one go.
const LOOKED_AT: i64 = 500;

impl PlanRun {
    fn read(row: &AnyRow) -> Result<Self> {
        let state = PlanRunState::from_word(&row.text("state")?)
            .ok_or_else(|| CatalogError::new(ErrorKind::Damaged, "a run of unknown state"))?;
        Ok(Self {
            id: row.id("id")?,
            project: row.maybe_id("project_id")?,
            plan: row.id("plan_id")?,
            plan_name: row.text("plan_name")?,
            mode: if row.text("mode")? == "test" { PlanMode::Test } else { PlanMode::Run },
            state,
            due_key: row.maybe_text("due_key")?,
            revision: row.count("revision")?,
            created_ms: row.count("created_ms")?,
            finished_ms: row.maybe_count("finished_ms")?,
            message: row.text("message")?,
            body: row.json("body")?,
        })
    }
}

/// Runs come with their plan.
const OF_PLAN: Whose<'static> =
    Whose { project: "project_id", shared: None, resources: &[("plan", "plan_id")] };

impl Tx {
    /// Adds a run; returns whether there was none with the same `due_key`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_plan_run(&mut self, run: &PlanRun) -> Result<bool> {
        let sql = format!(
            "INSERT INTO plan_runs ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, 1, $8, NULL, \
             $9, $10) ON CONFLICT (due_key) DO NOTHING"
        );
        let insert = query(sql)
            .bind(run.id.to_string())
            .bind(text_of(run.project))
            .bind(run.plan.to_string())
            .bind(run.plan_name.clone())
            .bind(run.mode.word())
            .bind(run.state.word())
            .bind(run.due_key.clone())
            .bind(number(run.created_ms))
            .bind(run.message.clone())
            .bind(document(&run.body));
        Ok(self.run(insert).await? > 0)
    }

    /// A run, if the caller may know of it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none, or the caller may not know.
    pub async fn plan_run(&mut self, id: PlanRunId, visible: &Visible) -> Result<PlanRun> {
        let sql = format!("SELECT {COLUMNS} FROM plan_runs WHERE id = $1");
        let row = self.maybe(query(sql).bind(id.to_string())).await?;
        let run = row.map(|row| PlanRun::read(&row)).transpose()?;
        run.filter(|run| visible.sees(run.project, Some(Resource::Plan(run.plan))))
            .ok_or_else(|| CatalogError::not_found(format_args!("run {id}")))
    }

    /// The runs that the caller may know of, newest first. `page.after` is the oldest one shown
    /// so far.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn plan_runs(
        &mut self,
        visible: &Visible,
        filter: &PlanRunFilter,
        page: &Page,
    ) -> Result<Vec<PlanRun>> {
        self.plan_runs_found(visible, filter, page).await?.whole()
    }

    /// The same, with those that cannot be read apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn plan_runs_found(
        &mut self,
        visible: &Visible,
        filter: &PlanRunFilter,
        page: &Page,
    ) -> Result<Found<PlanRun>> {
        let visible = visible.of_project(filter.project);
        let list = match filter.oldest_first {
            true => Listed::oldest("plan_runs", COLUMNS),
            false => Listed::newest("plan_runs", COLUMNS),
        };
        let list = list
            .of("plan_id", text_of(filter.plan))
            .also("project_id", text_of(filter.project))
            .also("mode", filter.mode.map_or("", PlanMode::word).to_owned());
        let state = filter.state.map_or("", PlanRunState::word).to_owned();
        let list = match list.is_narrow() {
            true => list.also("state", state),
            false => list.with("state", state),
        };
        let rows = self.page_within(list, (&visible, &OF_PLAN), page, &filter.begun).await?;
        Found::by_id(&rows, page.limit, PlanRun::read)
    }

    /// The runs that have not ended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn plan_runs_under_way(&mut self) -> Result<Vec<PlanRunId>> {
        let sql = format!(
            "SELECT id FROM plan_runs WHERE state = 'running' ORDER BY id LIMIT {LOOKED_AT}"
        );
        self.all(query(sql)).await?.iter().map(|row| row.id("id")).collect()
    }

    /// Stores how far a run is.
    ///
    /// # Errors
    /// [`ErrorKind::Stale`] when it was changed since it was read.
    pub async fn save_plan_run(&mut self, run: &PlanRun) -> Result<()> {
        let sql = "UPDATE plan_runs SET state = $1, finished_ms = $2, message = $3, body = $4, \
                   revision = revision + 1 WHERE id = $5 AND revision = $6";
        let update = sqlx::query(sql)
            .bind(run.state.word())
            .bind(run.finished_ms.map(number))
            .bind(run.message.replace('\0', ""))
            .bind(document(&run.body))
            .bind(run.id.to_string())
            .bind(number(run.revision));
        if self.run(update).await? == 0 {
            return Err(CatalogError::new(ErrorKind::Stale, "this run has gone on meanwhile"));
        }
        Ok(())
    }
}
