//! When which task is due, where it may run, and what it may use.
//!
//! Everything here is a pure function: state and the present moment come in, decisions come out.
//! There is no clock, no I/O and no randomness (a seed is given where chance is wanted), so years
//! pass in a test within seconds. The one look outside is at the system's time zone database, when
//! a schedule is [compiled](calendar::Schedule::compile).
//!
//! # Parts
//!
//! ```text
//!  policies, resources, marks --> plan --> tasks to make, windows that were missed
//!                                   |
//!  waiting tasks, nodes, limits --> queue --> which task starts on which node
//! ```
//!
//! [`calendar`] says when, [`retry`] when again, and [`quota`] whether at all; [`metering`] adds up
//! what was used.
//!
//! # What a server does with it
//!
//! At [`wake`](plan::Decisions::wake), and whenever something changed:
//!
//! 1. [`Plan::decide`](plan::Plan::decide); store tasks (each with its unique
//!    [`key`](plan::NewTask::key)), what was missed, and marks, in one transaction.
//! 2. [`Queue::decide`](queue::Queue::decide); end what expired, and give nodes that ask for work
//!    what starts, stored if the task is still as it was read.
//!
//! The life of a task from there on, with its leases, is kept by whoever stores tasks.
//!
//! ```
//! use sluice_scheduler::calendar::Schedule;
//! use sluice_scheduler::time::TimeOfDay;
//!
//! let at = TimeOfDay::new(2, 30).into_iter().collect();
//! let zone = Some("Europe/Berlin".to_owned());
//! let calendar = Schedule { at, zone, ..Schedule::default() }.compile()?;
//! assert_eq!(calendar.to_string(), "every day at 02:30 Europe/Berlin");
//!
//! // The night in which clocks go from 02:00 to 03:00.
//! let next = calendar.next("2026-03-28T12:00:00Z".parse()?);
//! assert_eq!(next, Some("2026-03-29T01:00:00Z".parse()?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod calendar;
mod ids;
mod invalid;
pub mod metering;
pub mod plan;
pub mod queue;
pub mod quota;
pub mod recovery;
pub mod retention;
pub mod retry;
pub mod time;
pub mod work;

pub use ids::{
    ClusterId, DestinationId, NodeId, PolicyId, PoolId, ProjectId, ResourceId, RuleId, ScheduleId,
    SourceId, TaskId,
};
pub use invalid::Invalid;
