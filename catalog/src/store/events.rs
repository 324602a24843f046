//! Events that have happened, for which retention was waiting.

use std::collections::BTreeSet;

use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, number, query, text_of};
use crate::error::{CatalogError, Result};
use crate::found::Found;
use crate::id::{InstanceId, PointId, ProjectId, RetentionEventId};
use crate::listed::Listed;
use crate::model::event::{EventFilter, RetentionEvent};
use crate::model::grant::Resource;
use crate::model::policy::check_event;
use crate::record::Page;
use crate::visible::{Visible, Whose};

const COLUMNS: &str = "id, project_id, instance_id, point_id, event, at_ms";
/// Instances that are named in one statement.
const AT_ONCE: usize = 500;

/// An event that has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRetentionEvent {
    /// The project of the instance.
    pub project: Option<ProjectId>,
    /// Whose restore points it is about.
    pub instance: InstanceId,
    /// The only restore point that it is about.
    pub point: Option<PointId>,
    /// What rules call it.
    pub event: String,
    /// When it happened, in milliseconds since 1970.
    pub at_ms: u64,
}

/// An event, and what was settled of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledEvent {
    /// What has happened.
    pub event: RetentionEvent,
    /// For which ends of the time after it prunes were asked for: words without blanks, as whoever
    /// settles them has written them.
    pub settled: BTreeSet<String>,
}

impl SettledEvent {
    fn read(row: &AnyRow) -> Result<Self> {
        let settled = row.text("settled")?.split_whitespace().map(str::to_owned).collect();
        Ok(Self { event: RetentionEvent::read(row)?, settled })
    }
}

impl RetentionEvent {
    fn read(row: &AnyRow) -> Result<Self> {
        Ok(Self {
            id: row.id("id")?,
            project: row.maybe_id("project_id")?,
            instance: row.id("instance_id")?,
            point: row.maybe_id("point_id")?,
            event: row.text("event")?,
            at_ms: row.count("at_ms")?,
        })
    }
}

impl Tx {
    /// Notes that an event has happened. Of one that is known the later time counts.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when nothing can be called so, and those of the database.
    pub async fn set_event(
        &mut self,
        new: &NewRetentionEvent,
        now_ms: u64,
    ) -> Result<RetentionEvent> {
        check_event(&new.event)?;
        let sql = format!(
            "INSERT INTO retention_events ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (instance_id, point_id, event) DO UPDATE SET at_ms = \
             CASE WHEN excluded.at_ms > retention_events.at_ms THEN excluded.at_ms \
             ELSE retention_events.at_ms END"
        );
        let insert = query(sql)
            .bind(RetentionEventId::new(now_ms).to_string())
            .bind(text_of(new.project))
            .bind(new.instance.to_string())
            .bind(text_of(new.point))
            .bind(new.event.clone())
            .bind(number(new.at_ms));
        self.run(insert).await?;
        let sql = format!(
            "SELECT {COLUMNS} FROM retention_events \
             WHERE instance_id = $1 AND point_id = $2 AND event = $3"
        );
        let select = query(sql)
            .bind(new.instance.to_string())
            .bind(text_of(new.point))
            .bind(new.event.clone());
        let row = self.maybe(select).await?;
        let row = row.ok_or_else(|| CatalogError::not_found("this event"))?;
        RetentionEvent::read(&row)
    }

    /// The events that the caller may know of, those noted first before others, with those that
    /// cannot be read apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn events(
        &mut self,
        visible: &Visible,
        filter: &EventFilter,
        page: &Page,
    ) -> Result<Found<RetentionEvent>> {
        let visible = visible.of_project(filter.project);
        let list = Listed::oldest("retention_events", COLUMNS)
            .of("instance_id", text_of(filter.instance))
            .also("project_id", text_of(filter.project))
            .also("event", filter.event.clone().unwrap_or_default());
        let rows = self.page(list, (&visible, &Whose::OF_INSTANCE), page).await?;
        Found::by_id(&rows, page.limit, RetentionEvent::read)
    }

    /// An event, if the caller may know of it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when there is none, or the caller may not know.
    pub async fn event(
        &mut self,
        id: RetentionEventId,
        visible: &Visible,
    ) -> Result<RetentionEvent> {
        let sql = format!("SELECT {COLUMNS} FROM retention_events WHERE id = $1");
        let row = self.maybe(query(sql).bind(id.to_string())).await?;
        let event = row.map(|row| RetentionEvent::read(&row)).transpose()?;
        event
            .filter(|event| visible.sees(event.project, Some(Resource::Instance(event.instance))))
            .ok_or_else(|| CatalogError::not_found(format_args!("event {id}")))
    }

    /// Forgets that an event has happened: retention waits for it again.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn remove_event(&mut self, id: RetentionEventId) -> Result<()> {
        let sql = "DELETE FROM retention_events WHERE id = $1";
        self.run(sqlx::query(sql).bind(id.to_string())).await.map(drop)
    }

    /// All events of the restore points of an instance.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn events_of(&mut self, instance: InstanceId) -> Result<Vec<RetentionEvent>> {
        let sql = format!("SELECT {COLUMNS} FROM retention_events WHERE instance_id = $1");
        let rows = self.all(query(sql).bind(instance.to_string())).await?;
        rows.iter().map(RetentionEvent::read).collect()
    }

    /// All events of the restore points of some instances. Those that cannot be read are apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn events_of_many(
        &mut self,
        instances: &BTreeSet<InstanceId>,
    ) -> Result<Found<RetentionEvent>> {
        let instances: Vec<String> = instances.iter().map(ToString::to_string).collect();
        let mut rows = Vec::new();
        for part in instances.chunks(AT_ONCE) {
            let places: Vec<String> = (1..=part.len()).map(|at| format!("${at}")).collect();
            let sql = format!(
                "SELECT {COLUMNS} FROM retention_events WHERE instance_id IN ({})",
                places.join(", ")
            );
            let select = part.iter().fold(query(sql), |select, id| select.bind(id.clone()));
            rows.extend(self.all(select).await?);
        }
        Found::apart(&rows, RetentionEvent::read)
    }

    /// A part of the events that have happened before a time, in the order of their ids, behind
    /// `page.after`. Those that cannot be read are apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn events_before(
        &mut self,
        before_ms: u64,
        page: &Page,
    ) -> Result<Found<SettledEvent>> {
        let sql = format!(
            "SELECT {COLUMNS}, settled FROM retention_events WHERE id > $1 AND at_ms < $2 \
             ORDER BY id LIMIT $3"
        );
        let select = query(sql)
            .bind(page.after.clone().unwrap_or_default())
            .bind(number(before_ms))
            .bind(i64::from(page.limit));
        Found::by_id(&self.all(select).await?, page.limit, SettledEvent::read)
    }

    /// The events of an instance, with what was settled of each.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn settled_events(&mut self, instance: InstanceId) -> Result<Vec<SettledEvent>> {
        let sql = format!("SELECT {COLUMNS}, settled FROM retention_events WHERE instance_id = $1");
        let rows = self.all(query(sql).bind(instance.to_string())).await?;
        rows.iter().map(SettledEvent::read).collect()
    }

    /// Notes what was settled of an event.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_settled(
        &mut self,
        id: RetentionEventId,
        settled: impl IntoIterator<Item = String>,
    ) -> Result<()> {
        let settled = Vec::from_iter(settled).join(" ");
        let update = sqlx::query("UPDATE retention_events SET settled = $1 WHERE id = $2");
        self.run(update.bind(settled).bind(id.to_string())).await.map(drop)
    }
}
