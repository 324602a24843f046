//! What happens by itself: schedules become due, leases run out.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use sluice_catalog::{NewTask, Page, Policy, Record, Rule, Schedule, Tx, When};
use sluice_scheduler::calendar::{self, Calendar, Misfire};
use tokio_util::sync::CancellationToken;

use crate::api::policies::EVERYTHING;
use crate::dispatch::backup_spec;
use crate::mounts;
use crate::problem::Result;
use crate::state::Shared;

/// How often is looked.
const TICK: Duration = Duration::from_secs(1);
/// Attempts of a task that became due.
const ATTEMPTS: u32 = 3;

/// Looks until `shutdown` is cancelled.
pub(crate) async fn run(shared: Shared, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(problem) = tick(&shared).await {
            tracing::error!("the scheduler cannot work: {}", problem.detail);
        }
    }
}

/// One look.
pub(crate) async fn tick(shared: &Shared) -> Result<()> {
    let now = shared.now();
    let mut tx = shared.catalog.read().await?;
    let (_, lost) = tx.needs_attention(now).await?;
    let mut policies = Vec::new();
    let mut page = Page { after: None, limit: Page::LARGEST };
    loop {
        let part = tx.list::<Policy>(&EVERYTHING, &page).await?;
        let Some(last) = part.last() else { break };
        page.after = Some(last.id.to_string());
        policies.extend(part.into_iter().filter(|policy| !policy.body.paused));
    }
    drop(tx);
    if lost {
        let mut tx = shared.catalog.begin().await?;
        for task in tx.reclaim(now).await? {
            tracing::warn!(task = %task.id, state = task.state.word(), "{}", task.message);
        }
        tx.commit().await?;
        shared.work.notify_waiters();
    }
    mounts::settle(shared, now).await?;
    for policy in policies {
        if due(shared, &policy, now).await? {
            shared.work.notify_waiters();
        }
    }
    Ok(())
}

/// Makes tasks of what became due; returns whether there were any.
async fn due(shared: &Shared, policy: &Record<Policy>, now: u64) -> Result<bool> {
    let marks = shared.catalog.read().await?.last_due(policy.id).await?;
    let mut found = Vec::new();
    for rule in &policy.body.rules {
        for schedule in rule.schedules.iter().filter(|schedule| !schedule.paused) {
            let key = format!("{}/{}", rule.name, schedule.name);
            let mark = marks.get(&key).copied().unwrap_or(policy.created_ms);
            // What a server that was away has missed is made up for once.
            if let Some(due) = latest(schedule, now).filter(|due| due.at > mark) {
                found.push((rule, key, due));
            }
        }
    }
    if found.is_empty() {
        return Ok(false);
    }
    let mut tx = shared.catalog.begin().await?;
    for (rule, key, due) in found {
        if due.starts {
            add(&mut tx, policy, rule, &key, due.at, now).await?;
        } else {
            tracing::warn!(policy = %policy.name, schedule = %key, "its start window was missed");
        }
        tx.set_last_due(policy.id, &key, due.at).await?;
    }
    tx.commit().await?;
    Ok(true)
}

/// A time at which something became due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Due {
    at: u64,
    /// Whether it may start now: it is not too late for it, or it is to be made up for.
    starts: bool,
}

/// A calendar as the scheduler reads it.
pub(crate) fn compiled(calendar: &Value) -> Result<Calendar, String> {
    let schedule = serde_json::from_value::<calendar::Schedule>(calendar.clone());
    let schedule = schedule.map_err(|error| error.to_string())?;
    schedule.compile().map_err(|error| error.to_string())
}

/// The last time not after `now` at which the schedule became due.
fn latest(schedule: &Schedule, now: u64) -> Option<Due> {
    match &schedule.when {
        When::Every { seconds } => {
            let period = seconds.checked_mul(1000)?;
            Some(Due { at: now - now.checked_rem(period)?, starts: true })
        }
        When::Calendar { calendar } => {
            // Checked when it was stored.
            let calendar = compiled(calendar).ok()?;
            let now = Timestamp::from_millisecond(i64::try_from(now).ok()?).ok()?;
            let at = calendar.previous(now)?;
            let late = calendar.start_window().after(at) < now;
            let starts = !late || calendar.misfire() != Misfire::Skip;
            Some(Due { at: u64::try_from(at.as_millisecond()).ok()?, starts })
        }
        When::Manual {} => None,
    }
}

async fn add(
    tx: &mut Tx,
    policy: &Record<Policy>,
    rule: &Rule,
    key: &str,
    at: u64,
    now: u64,
) -> Result<()> {
    for instance in tx.instances_of(policy, &EVERYTHING).await? {
        if !instance.body.present {
            continue;
        }
        let spec = backup_spec(tx, &instance).await?;
        let task = NewTask {
            project: instance.project,
            instance: Some(instance.id),
            policy: Some(policy.id),
            destination: Some(rule.destination),
            wanted_node: instance.body.node,
            kind: spec.kind().to_owned(),
            priority: policy.body.priority,
            // Whoever else finds this due at the same time adds nothing.
            due_key: Some(format!("{}/{key}/{}/{at}", policy.id, instance.id)),
            max_attempts: ATTEMPTS,
            not_before_ms: now,
            spec: serde_json::to_value(&spec).unwrap_or_default(),
        };
        tx.add_task(&task, now).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_interval_is_counted_from_1970() {
        let when = When::Every { seconds: 60 };
        let schedule = Schedule { name: "a".into(), paused: false, when };
        let at = |now| latest(&schedule, now).map(|due| due.at);
        assert_eq!((at(59_999), at(60_000), at(119_999)), (Some(0), Some(60_000), Some(60_000)));
        let when = When::Manual {};
        assert_eq!(latest(&Schedule { when, ..schedule.clone() }, 60_000), None);
        // Two in the morning, and not later than three: at four it is too late.
        let calendar = json!({"at": ["02:00"], "start_window": "1h", "misfire": "skip"});
        let when = When::Calendar { calendar };
        let schedule = Schedule { when, ..schedule };
        let hour = 3_600_000;
        assert_eq!(latest(&schedule, 2 * hour), Some(Due { at: 2 * hour, starts: true }));
        assert_eq!(latest(&schedule, 4 * hour), Some(Due { at: 2 * hour, starts: false }));
        assert!(compiled(&json!({"at": ["25:00"]})).is_err());
    }
}
