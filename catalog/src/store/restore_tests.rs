//! Restore tests and what they prove.

use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, document, number, query, text_of};
use crate::error::{CatalogError, ErrorKind, Result};
use crate::found::Found;
use crate::id::{DestinationId, InstanceId, PolicyId, RestoreTestId, TaskId};
use crate::listed::Listed;
use crate::model::grant::Resource;
use crate::model::point::Point;
use crate::model::restore_test::{NewTest, RestoreTest, TestFilter, TestOutcome, TestState};
use crate::record::Page;
use crate::visible::{Visible, Whose};

const COLUMNS: &str = "id, project_id, instance_id, point_id, destination_id, policy_id, task_id, \
    state, revision, created_ms, updated_ms, spec, report, message, \
    CASE WHEN screenshot = '' THEN 0 ELSE 1 END AS has_screenshot";
/// Tests that are looked at in one go.
const LOOKED_AT: i64 = 500;
/// Tests of an instance whose screenshots and consoles are kept: the newest.
const KEPT: i64 = 30;

impl RestoreTest {
    fn read(row: &AnyRow) -> Result<Self> {
        let state = TestState::from_word(&row.text("state")?)
            .ok_or_else(|| CatalogError::new(ErrorKind::Damaged, "a test of unknown state"))?;
        Ok(Self {
            id: row.id("id")?,
            new: NewTest {
                project: row.maybe_id("project_id")?,
                instance: row.id("instance_id")?,
                point: row.id("point_id")?,
                destination: row.id("destination_id")?,
                policy: row.maybe_id("policy_id")?,
                spec: row.json("spec")?,
            },
            task: row.maybe_id("task_id")?,
            state,
            report: row.json("report")?,
            message: row.text("message")?,
            has_screenshot: row.count("has_screenshot")? != 0,
            revision: row.count("revision")?,
            created_ms: row.count("created_ms")?,
            updated_ms: row.count("updated_ms")?,
        })
    }
}

impl Tx {
    /// Adds a test that is pending.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_test(
        &mut self,
        id: RestoreTestId,
        new: &NewTest,
        task: Option<TaskId>,
        now_ms: u64,
    ) -> Result<()> {
        let sql = "INSERT INTO restore_tests (id, project_id, instance_id, point_id, \
             destination_id, policy_id, task_id, state, revision, created_ms, updated_ms, spec, \
             report, message, screenshot, console) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, 'pending', 1, $8, $8, $9, 'null', '', '', '')";
        let insert = sqlx::query(sql)
            .bind(id.to_string())
            .bind(text_of(new.project))
            .bind(new.instance.to_string())
            .bind(new.point.to_string())
            .bind(new.destination.to_string())
            .bind(text_of(new.policy))
            .bind(text_of(task))
            .bind(number(now_ms))
            .bind(document(&new.spec));
        self.run(insert).await.map(drop)
    }

    /// A test, if the caller may know of it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none, or the caller may not know.
    pub async fn test(&mut self, id: RestoreTestId, visible: &Visible) -> Result<RestoreTest> {
        let sql = format!("SELECT {COLUMNS} FROM restore_tests WHERE id = $1");
        let row = self.maybe(query(sql).bind(id.to_string())).await?;
        let test = row.map(|row| RestoreTest::read(&row)).transpose()?;
        test.filter(|test| {
            visible.sees(test.new.project, Some(Resource::Instance(test.new.instance)))
        })
        .ok_or_else(|| CatalogError::not_found(format_args!("restore test {id}")))
    }

    /// The tests that the caller may know of, newest first. `page.after` is the oldest one shown
    /// so far.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tests(
        &mut self,
        visible: &Visible,
        filter: &TestFilter,
        page: &Page,
    ) -> Result<Vec<RestoreTest>> {
        self.tests_found(visible, filter, page).await?.whole()
    }

    /// The same, with those that cannot be read apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tests_found(
        &mut self,
        visible: &Visible,
        filter: &TestFilter,
        page: &Page,
    ) -> Result<Found<RestoreTest>> {
        let visible = visible.of_project(filter.project);
        let list = match filter.oldest_first {
            true => Listed::oldest("restore_tests", COLUMNS),
            false => Listed::newest("restore_tests", COLUMNS),
        };
        let list = list.of_first(&[
            ("instance_id", text_of(filter.instance)),
            ("policy_id", text_of(filter.policy)),
            ("destination_id", text_of(filter.destination)),
        ]);
        let state = filter.state.map_or("", TestState::word).to_owned();
        let project = text_of(filter.project);
        let list = match list.is_narrow() {
            true => list.also("state", state).also("project_id", project),
            false => list.with("state", state).with("project_id", project),
        };
        let whose = (&visible, &Whose::OF_INSTANCE);
        let rows = self.page_within(list, whose, page, &filter.added).await?;
        Found::by_id(&rows, page.limit, RestoreTest::read)
    }

    /// Pending tests whose task has ended. Those that cannot be read are apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tests_to_settle(&mut self) -> Result<Found<RestoreTest>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM restore_tests WHERE state = 'pending' AND NOT EXISTS \
             (SELECT 1 FROM tasks t WHERE t.id = restore_tests.task_id \
             AND t.state IN ('queued', 'running')) ORDER BY id LIMIT {LOOKED_AT}"
        );
        Found::apart(&self.all(query(sql)).await?, RestoreTest::read)
    }

    /// Notes what came of a test that is pending; returns whether it was. Screenshots and
    /// consoles of its instance's older tests are dropped.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_test(
        &mut self,
        id: RestoreTestId,
        outcome: &TestOutcome,
        now_ms: u64,
    ) -> Result<bool> {
        let sql = "UPDATE restore_tests SET state = $1, report = $2, message = $3, \
                   screenshot = $4, console = $5, updated_ms = $6, revision = revision + 1 \
                   WHERE id = $7 AND state = 'pending'";
        let update = sqlx::query(sql)
            .bind(outcome.state.word())
            .bind(document(&outcome.report))
            // PostgreSQL has no place for NUL in texts.
            .bind(outcome.message.replace('\0', ""))
            .bind(outcome.screenshot.clone())
            .bind(outcome.console.replace('\0', ""))
            .bind(number(now_ms))
            .bind(id.to_string());
        if self.run(update).await? == 0 {
            return Ok(false);
        }
        let sql = format!(
            "UPDATE restore_tests SET screenshot = '', console = '' WHERE screenshot <> '' \
             AND instance_id = (SELECT instance_id FROM restore_tests WHERE id = $1) \
             AND id NOT IN (SELECT id FROM restore_tests WHERE instance_id = \
             (SELECT instance_id FROM restore_tests WHERE id = $1) ORDER BY id DESC LIMIT {KEPT})"
        );
        self.run(query(sql).bind(id.to_string())).await?;
        Ok(true)
    }

    /// The screenshot (PNG in base64) and the console of a test.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such test.
    pub async fn test_evidence(&mut self, id: RestoreTestId) -> Result<(String, String)> {
        let sql = "SELECT screenshot, console FROM restore_tests WHERE id = $1";
        let row = self.maybe(sqlx::query(sql).bind(id.to_string())).await?;
        let row = row.ok_or_else(|| CatalogError::not_found(format_args!("restore test {id}")))?;
        Ok((row.text("screenshot")?, row.text("console")?))
    }

    /// Whether an instance has a test of this policy that is pending.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn test_pending(&mut self, instance: InstanceId, policy: PolicyId) -> Result<bool> {
        let sql = "SELECT id FROM restore_tests WHERE instance_id = $1 AND policy_id || '' = $2 \
                   AND state = 'pending' LIMIT 1";
        let select = sqlx::query(sql).bind(instance.to_string()).bind(policy.to_string());
        Ok(self.maybe(select).await?.is_some())
    }

    /// The newest restore point of an instance, at one destination and not after a moment when
    /// these are said.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn newest_point(
        &mut self,
        instance: InstanceId,
        destination: Option<DestinationId>,
        until_ms: Option<u64>,
    ) -> Result<Option<Point>> {
        let sql = format!(
            "SELECT {} FROM points WHERE instance_id = $1 AND ($2 = '' OR destination_id = $2) \
             AND taken_ms <= $3 AND removed_ms IS NULL \
             ORDER BY taken_ms DESC, copy_of, id DESC LIMIT 1",
            Point::COLUMNS
        );
        let select = query(sql)
            .bind(instance.to_string())
            .bind(text_of(destination))
            .bind(number(until_ms.unwrap_or(u64::MAX)));
        self.maybe(select).await?.map(|row| Point::read(&row)).transpose()
    }
}
