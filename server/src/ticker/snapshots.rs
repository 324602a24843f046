//! Snapshots that become due.

use sluice_catalog::SnapshotRule;
use sluice_scheduler::plan::MissReason;

use super::Batch;
use super::slot::Due;
use crate::api::policies::EVERYTHING;
use crate::problem::Result;
use crate::snapshots::{By, request};

impl Batch<'_> {
    /// Asks for a snapshot of each instance; of several moments that are due, the last counts.
    pub(super) async fn add_snapshots(&mut self, rule: &SnapshotRule, due: &Due) -> Result<()> {
        let Some((at, start_by)) = due.run.last().copied() else { return Ok(()) };
        for instance in self.tx.instances_of(self.policy, &EVERYTHING).await? {
            let made = self.add_snapshot(rule, &instance, (at, start_by)).await;
            self.came(&instance, "snapshot", made, due).await?;
        }
        Ok(())
    }

    async fn add_snapshot(
        &mut self,
        rule: &SnapshotRule,
        instance: &sluice_catalog::Record<sluice_catalog::Instance>,
        (at, start_by): (u64, Option<u64>),
    ) -> Result<Option<MissReason>> {
        let policy = self.policy.id;
        if rule.paused || instance.body.paused {
            return Ok(Some(MissReason::Paused));
        }
        if !instance.body.present {
            return Ok(Some(MissReason::Absent));
        }
        if self.tx.snapshot_pending(instance.id, policy, &rule.name).await? {
            return Ok(Some(MissReason::StillActive));
        }
        let by = By {
            rule: Some((policy, &rule.name)),
            priority: self.policy.body.priority,
            expires_ms: 0,
            due_key: Some(self.due_key(instance.id, at)),
            no_hooks: false,
        };
        let added = request(self.tx, instance, by, self.now).await?;
        if let (Some((_, task)), Some(start_by)) = (added, start_by) {
            self.tx.set_start_by(task, start_by).await?;
        }
        Ok(None)
    }
}
