//! Policies: which instances they have, and what became due.

use std::collections::BTreeMap;

use crate::db::{Columns, Tx, number};
use crate::error::Result;
use crate::id::{InstanceId, PolicyId};
use crate::model::instance::Instance;
use crate::model::policy::Policy;
use crate::record::{Page, Record, Visible};

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

    /// The instances of a policy, by hand and by tag, that the caller may know of. A policy of a
    /// project has instances of that project only.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn instances_of(
        &mut self,
        policy: &Record<Policy>,
        visible: &Visible,
    ) -> Result<Vec<Record<Instance>>> {
        let sql = "SELECT instance_id FROM assignments WHERE policy_id = $1";
        let rows = self.all(sqlx::query(sql).bind(policy.id.to_string())).await?;
        let by_hand = rows.iter().map(|row| row.id("instance_id"));
        let by_hand = by_hand.collect::<Result<std::collections::BTreeSet<InstanceId>>>()?;
        if by_hand.is_empty() && policy.body.assign.tags.is_empty() {
            return Ok(Vec::new());
        }
        let within = match policy.project {
            Some(project) => Visible::Projects([project].into()),
            None => Visible::All,
        };
        let mut found = Vec::new();
        let mut page = Page { after: None, limit: Page::LARGEST };
        loop {
            let part = self.list::<Instance>(&within, &page).await?;
            let Some(last) = part.last() else { return Ok(found) };
            page.after = Some(last.id.to_string());
            found.extend(part.into_iter().filter(|instance| {
                let tagged = !instance.body.tags.is_disjoint(&policy.body.assign.tags);
                (tagged || by_hand.contains(&instance.id)) && visible.covers(instance.project)
            }));
        }
    }

    /// The policies that apply to an instance, by hand and by tag, paused ones too: those of
    /// which [`Tx::instances_of`] tells this instance.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn policies_of(
        &mut self,
        instance: &Record<Instance>,
    ) -> Result<Vec<Record<Policy>>> {
        let sql = "SELECT policy_id FROM assignments WHERE instance_id = $1";
        let rows = self.all(sqlx::query(sql).bind(instance.id.to_string())).await?;
        let by_hand = rows.iter().map(|row| row.id("policy_id"));
        let by_hand = by_hand.collect::<Result<std::collections::BTreeSet<PolicyId>>>()?;
        // Its project's, and the system's.
        let within = Visible::Projects(instance.project.into_iter().collect());
        let mut found = Vec::new();
        let mut page = Page { after: None, limit: Page::LARGEST };
        loop {
            let part = self.list::<Policy>(&within, &page).await?;
            let Some(last) = part.last() else { return Ok(found) };
            page.after = Some(last.id.to_string());
            found.extend(part.into_iter().filter(|policy| {
                let tagged = !policy.body.assign.tags.is_disjoint(&instance.body.tags);
                tagged || by_hand.contains(&policy.id)
            }));
        }
    }

    /// The last time that each schedule of a policy became due, in milliseconds since 1970.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn last_due(&mut self, policy: PolicyId) -> Result<BTreeMap<String, u64>> {
        let sql = "SELECT schedule, last_due_ms FROM schedule_state WHERE policy_id = $1";
        let rows = self.all(sqlx::query(sql).bind(policy.to_string())).await?;
        rows.iter().map(|row| Ok((row.text("schedule")?, row.count("last_due_ms")?))).collect()
    }

    /// Notes when a schedule became due last.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_last_due(
        &mut self,
        policy: PolicyId,
        schedule: &str,
        due_ms: u64,
    ) -> Result<()> {
        let sql = "INSERT INTO schedule_state (policy_id, schedule, last_due_ms) \
                   VALUES ($1, $2, $3) \
                   ON CONFLICT (policy_id, schedule) DO UPDATE SET \
                   last_due_ms = excluded.last_due_ms";
        let set = sqlx::query(sql).bind(policy.to_string()).bind(schedule.to_owned());
        self.run(set.bind(number(due_ms))).await.map(drop)
    }
}
