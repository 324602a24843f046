//! Reports that are sent by themselves, at times like those of backups.
//!
//! A report that is due becomes a notice, which waits in the database until it could be sent; what
//! it tells is looked up when it is sent. One that is late because no server ran is sent once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{Notice, Schedule, Tx, Visible, When};
use utoipa::ToSchema;

use super::document::{self, Asked, Draft};
use crate::api::policies::check_calendars;
use crate::problem::{Problem, Result};
use crate::ticker::Times;

/// A report that is sent by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScheduledReport {
    /// Its name: small letters, digits and hyphens.
    pub(crate) name: String,
    /// What is sent.
    pub(crate) what: Asked,
    /// When.
    pub(crate) when: When,
    /// By these channels.
    pub(crate) channels: Vec<String>,
}

impl ScheduledReport {
    fn schedule(&self) -> Schedule {
        let (name, when) = (self.name.clone(), self.when.clone());
        Schedule { name, paused: false, when, backup_type: None }
    }

    /// Has it sent as soon as possible.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn send(&self, tx: &mut Tx, now: u64) -> Result<()> {
        for channel in &self.channels {
            tx.add_notice(channel, &json!({"report": self.what}), now).await?;
        }
        Ok(())
    }

    /// Whether it makes sense by itself.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn check(&self) -> Result<()> {
        if let When::Every { seconds } = self.when
            && !(60..=366 * 86_400).contains(&seconds)
        {
            return Err(Problem::invalid("a report is sent each minute at most, and each year"));
        }
        check_calendars(&[self.schedule()])
    }
}

/// The reports that are due. `marks` says up to when each was looked at; one that
/// is new owes nothing for the past.
pub(crate) fn due<'w>(
    wanted: &'w [ScheduledReport],
    marks: &mut BTreeMap<String, u64>,
    now: u64,
) -> Vec<&'w ScheduledReport> {
    marks.retain(|name, _| wanted.iter().any(|report| report.name == *name));
    let is_due = |report: &&ScheduledReport| {
        let Some(times) = Times::of(&report.schedule()) else { return false };
        // A clock that was wrong has no say for longer than one occurrence.
        let ahead = times.next(now).unwrap_or(u64::MAX);
        let mark = marks.entry(report.name.clone()).or_insert(now);
        *mark = (*mark).min(ahead);
        let Some(due) = times.previous(now).filter(|due| due > mark) else { return false };
        *mark = due;
        true
    };
    wanted.iter().filter(is_due).collect()
}

/// The report that a notice is of; nothing when it tells of events.
pub(crate) fn of(notice: &Notice) -> Option<Asked> {
    serde_json::from_value(notice.body.get("report")?.clone()).ok()
}

/// Looks up what is to be sent. A report of a project is made with the eyes of the project.
///
/// # Errors
/// Those of the database.
pub(crate) async fn look_up(tx: &mut Tx, asked: &Asked, now: u64) -> Result<Draft> {
    let visible = match asked.project {
        Some(project) => Visible::projects([project]),
        None => Visible::All,
    };
    document::look_up(tx, &visible, asked, now).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn a_report_is_due_once_for_each_time_and_owes_nothing_for_the_past() {
        let report = |name: &str, seconds: u64| -> ScheduledReport {
            let when = json!({"kind": "every", "seconds": seconds});
            let what = json!({"report": "usage"});
            let report = json!({"name": name, "what": what, "when": when, "channels": ["ops"]});
            serde_json::from_value(report).unwrap()
        };
        assert!(report("often", 59).check().is_err() && report("often", 60).check().is_ok());
        let wanted = [report("hourly", 3600), report("daily", 86_400)];
        let mut marks = BTreeMap::new();
        let mut look = |wanted: &[ScheduledReport], now: u64| -> Vec<String> {
            due(wanted, &mut marks, now).iter().map(|report| report.name.clone()).collect()
        };
        assert!(look(&wanted, 23 * HOUR + 5).is_empty());
        assert!(look(&wanted, 24 * HOUR - 1).is_empty());
        assert_eq!(look(&wanted, 24 * HOUR), ["hourly", "daily"]);
        assert!(look(&wanted, 24 * HOUR + 9).is_empty());
        // Some were not looked at in time: it is one all the same.
        assert_eq!(look(&wanted, 30 * HOUR), ["hourly"]);
        // One that is gone for a while is new again.
        assert!(look(&wanted[1..], 31 * HOUR).is_empty());
        assert!(look(&wanted, 33 * HOUR).is_empty());
        // The clock was days ahead, and is right again.
        assert_eq!(look(&wanted, 1000 * HOUR).len(), 2);
        assert!(look(&wanted, 40 * HOUR + 1).is_empty());
        assert_eq!(look(&wanted, 42 * HOUR), ["hourly"]);
    }
}
