//! Destinations around destinations: each has the same trait on both faces.
//!
//! [`crate::url::open`] stacks them, from the store outwards:
//!
//! ```text
//! store <- Count <- Limit <- Retry <- caller
//! ```
//!
//! so that every request that leaves is counted, also a repeated one, and waiting for the next
//! attempt does not hold a place among the running requests. [`Fault`] makes a store misbehave,
//! for tests. [`Arbiter`] makes one destination of two: a store for the data, and one that decides
//! who was first; each of them has the stack above below it.

mod arbiter;
mod count;
mod fault;
mod limit;
mod retry;

pub use arbiter::{Arbiter, Repaired};
pub use count::{Count, Counters, OperationCount, Snapshot};
pub use fault::{Effect, Fault, Operation, Rule};
pub use limit::Limit;
pub use retry::{Retry, RetryPolicy};
