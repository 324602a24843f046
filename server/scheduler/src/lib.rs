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
//!                                               |
//!  events of nodes and people  ------------> task --> next state, or why not
//! ```
//!
//! [`calendar`] says when, [`retry`] when again, and [`quota`] whether at all; [`metering`] adds up
//! what was used, and [`forecast`] what is to come.

pub mod calendar;
pub mod forecast;
mod ids;
mod invalid;
pub mod metering;
pub mod plan;
pub mod queue;
pub mod quota;
pub mod retention;
pub mod retry;
pub mod task;
pub mod time;
pub mod work;

pub use ids::{
    ClusterId, DestinationId, NodeId, PolicyId, PoolId, ProjectId, ResourceId, RuleId, ScheduleId,
    SourceId, TaskId,
};
pub use invalid::Invalid;
