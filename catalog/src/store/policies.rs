//! Policies: which instances they have, and what became due.

use std::collections::BTreeSet;

use crate::db::{Columns, Query, Tx, number, query, text_of};
use crate::error::{CatalogError, Result};
use crate::found::Span;
use crate::id::{InstanceId, PolicyId};
use crate::model::assign::Having;
use crate::model::grant::Resource;
use crate::model::history::ByHand;
use crate::model::instance::Instance;
use crate::model::policy::{Missed, MissedFilter, Policy};
use crate::record::{Page, Record};
use crate::visible::{Visible, Whose};

/// What was missed comes with its instance; what concerns all of a policy, with that.
const OF_MISSED: Whose<'static> = Whose {
    project: "project_id",
    shared: Some("COALESCE((SELECT p.visible_to FROM policies p WHERE p.id = policy_id), '')"),
    resources: &[("instance", "instance_id"), ("policy", "instance_id = '' AND policy_id")],
};

impl Tx {
    /// Assigns an instance to a policy by hand.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when one of them is gone.
    pub async fn assign(&mut self, policy: PolicyId, instance: InstanceId) -> Result<()> {
        let sql = "INSERT INTO assignments (policy_id, instance_id) VALUES ($1, $2) \
                   ON CONFLICT (policy_id, instance_id) DO NOTHING";
        let insert = sqlx::query(sql).bind(policy.to_string()).bind(instance.to_string());
        self.run(insert).await.map(drop)
    }

    /// Takes that back; returns whether it was so.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn unassign(&mut self, policy: PolicyId, instance: InstanceId) -> Result<bool> {
        let sql = "DELETE FROM assignments WHERE policy_id = $1 AND instance_id = $2";
        let delete = sqlx::query(sql).bind(policy.to_string()).bind(instance.to_string());
        Ok(self.run(delete).await? > 0)
    }

    /// The instances of a policy, by hand and by itself, that the caller may know of. A policy of a
    /// project has instances of that project only. One that cannot be read is left out: the others
    /// are protected all the same.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn instances_of(
        &mut self,
        policy: &Record<Policy>,
        visible: &Visible,
    ) -> Result<Vec<Record<Instance>>> {
        let sql = "SELECT policy_id, instance_id FROM assignments WHERE policy_id = $1";
        let by_hand = self.assigned(sqlx::query(sql).bind(policy.id.to_string())).await?;
        if by_hand.is_empty() && policy.body.assign.is_nothing() {
            return Ok(Vec::new());
        }
        let having = Having::of(policy, &by_hand);
        let within = match policy.project {
            Some(project) => Visible::projects([project]),
            None => Visible::All,
        };
        let mut found = Vec::new();
        let mut page = Page { after: None, limit: Page::LARGEST };
        loop {
            let part = self.list_readable::<Instance>(&within, &page).await?;
            let Some(last) = part.last else { return Ok(found) };
            page.after = Some(last);
            for (id, name, error) in part.unreadable {
                tracing::error!(instance = id, name, "no policy takes it: {error}");
            }
            found.extend(part.records.into_iter().filter(|instance| {
                visible.sees(instance.project, Some(Resource::Instance(instance.id)))
                    && having.has(instance)
            }));
        }
    }

    /// The policies that apply to an instance, by hand and by themselves, paused ones too: those of
    /// which [`Tx::instances_of`] tells this instance.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn policies_of(
        &mut self,
        instance: &Record<Instance>,
    ) -> Result<Vec<Record<Policy>>> {
        let (found, unreadable) = self.known_policies_of(instance).await?;
        unreadable.map_or(Ok(found), Err)
    }

    /// Those of them that can be read: for what each of them wants done, whatever others say. What
    /// may be removed takes all of them to judge.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn readable_policies_of(
        &mut self,
        instance: &Record<Instance>,
    ) -> Result<Vec<Record<Policy>>> {
        Ok(self.known_policies_of(instance).await?.0)
    }

    /// Those that can be read, and why one that may have the instance cannot.
    async fn known_policies_of(
        &mut self,
        instance: &Record<Instance>,
    ) -> Result<(Vec<Record<Policy>>, Option<CatalogError>)> {
        let sql = "SELECT policy_id, instance_id FROM assignments WHERE instance_id = $1";
        let by_hand = self.assigned(sqlx::query(sql).bind(instance.id.to_string())).await?;
        // Its project's, and the system's, whoever sees them.
        let within = Visible::projects(instance.project);
        let (mut found, mut unreadable) = (Vec::new(), None);
        let mut page = Page { after: None, limit: Page::LARGEST };
        loop {
            // Nothing as the list of projects is all of them.
            let part = self.list_readable_with::<Policy>(&within, Some("''"), &page).await?;
            let Some(last) = part.last else { return Ok((found, unreadable)) };
            page.after = Some(last);
            unreadable = unreadable.or(part.unreadable.into_iter().next().map(|one| one.2));
            let has = |policy: &Record<Policy>| Having::of(policy, &by_hand).has(instance);
            found.extend(part.records.into_iter().filter(has));
        }
    }

    /// What was assigned to policies by hand.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn by_hand(&mut self) -> Result<BTreeSet<ByHand>> {
        self.assigned(sqlx::query("SELECT policy_id, instance_id FROM assignments")).await
    }

    async fn assigned(&mut self, select: Query) -> Result<BTreeSet<ByHand>> {
        let rows = self.all(select).await?;
        rows.iter().map(|row| Ok((row.id("policy_id")?, row.id("instance_id")?))).collect()
    }

    /// Counts a change of policies, so that servers notice.
    pub(crate) async fn changed(&mut self, table: &str) -> Result<()> {
        if table == "policies" {
            let sql = "UPDATE settings SET value = CAST(CAST(value AS BIGINT) + 1 AS TEXT) \
                       WHERE name = 'changes-policies'";
            self.run(sqlx::query(sql)).await?;
        }
        Ok(())
    }

    /// A text that differs whenever any policy was made, changed or removed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn policy_changes(&mut self) -> Result<String> {
        let sql = "SELECT value FROM settings WHERE name = 'changes-policies'";
        let row = self.maybe(sqlx::query(sql)).await?;
        row.map(|row| row.text("value")).transpose().map(Option::unwrap_or_default)
    }

    /// Notes occurrences of a schedule that do not run; those with the same reason are counted
    /// together.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when the policy is gone.
    pub async fn add_missed(&mut self, missed: &Missed) -> Result<()> {
        let sql = "INSERT INTO missed (policy_id, schedule, instance_id, reason, project_id, \
                   first_ms, last_ms, times) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
                   ON CONFLICT (policy_id, schedule, instance_id, reason) DO UPDATE SET \
                   last_ms = excluded.last_ms, times = missed.times + excluded.times";
        let insert = sqlx::query(sql)
            .bind(missed.policy.to_string())
            .bind(missed.schedule.clone())
            .bind(text_of(missed.instance))
            .bind(missed.reason.clone())
            .bind(text_of(missed.project))
            .bind(number(missed.first_ms))
            .bind(number(missed.last_ms))
            .bind(number(missed.times));
        self.run(insert).await.map(drop)
    }

    /// What was missed since a time, latest first: what the caller may know of, and what
    /// concerns all instances of a policy of the system. The latest thousand.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn missed(&mut self, visible: &Visible, since_ms: u64) -> Result<Vec<Missed>> {
        let at = Span { since_ms: Some(since_ms), until_ms: None };
        self.missed_of(visible, &MissedFilter { at, ..MissedFilter::default() }).await
    }

    /// The same, of some of it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn missed_of(
        &mut self,
        visible: &Visible,
        filter: &MissedFilter,
    ) -> Result<Vec<Missed>> {
        let (condition, values) = visible.condition(&OF_MISSED, 8);
        let sql = format!(
            "SELECT policy_id, schedule, instance_id, reason, project_id, first_ms, last_ms, \
             times FROM missed WHERE last_ms >= $1 AND first_ms < $3 \
             AND ($4 = '' OR policy_id = $4) AND ($5 = '' OR instance_id = $5) \
             AND ($6 = '' OR project_id = $6) AND ($7 = '' OR reason = $7) AND {condition} \
             ORDER BY last_ms DESC, policy_id, schedule, instance_id, reason LIMIT $2"
        );
        let mut select = query(sql)
            .bind(number(filter.at.since_ms.unwrap_or(0)))
            .bind(i64::from(Page::LARGEST))
            .bind(number(filter.at.until_ms.unwrap_or(u64::MAX)))
            .bind(text_of(filter.policy))
            .bind(text_of(filter.instance))
            .bind(text_of(filter.project))
            .bind(filter.reason.clone().unwrap_or_default());
        for value in values {
            select = select.bind(value);
        }
        let read = |row: &sqlx::any::AnyRow| {
            Ok(Missed {
                policy: row.id("policy_id")?,
                schedule: row.text("schedule")?,
                instance: row.maybe_id("instance_id")?,
                project: row.maybe_id("project_id")?,
                reason: row.text("reason")?,
                first_ms: row.count("first_ms")?,
                last_ms: row.count("last_ms")?,
                times: row.count("times")?,
            })
        };
        self.all(select).await?.iter().map(read).collect()
    }
}
