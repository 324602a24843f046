//! The life of a task, as pure transitions.
//!
//! ```text
//!              Assign          Start
//!  Waiting ------------> Leased ----> Running ---> Succeeded, Warned, Failed
//!   ^  |  <-- Return, lost, --+----------+
//!   |  |      to try again    | Cancel   | Cancel
//!   |  | Cancel, Expire       v          v
//!   |  +--> Cancelled,     Cancelling ---> Cancelled (or as it ended before it was told)
//!   |       Failed
//!   +--- Restart: Failed, Cancelled
//! ```
//!
//! # Leases
//!
//! A node has a task for the length of a *lease*, and renews it. Each lease has a *token*, larger
//! than all before it; what a node reports under an older token is answered with
//! [`Answer::Gone`] and changes nothing.
//!
//! The node counts the length from when it *asked*, the server from when it *granted*. So the node
//! stops first, whatever their clocks say; [`GRACE`] is for clocks that do not run equally fast. A
//! server that was off, or whose clock was set forward, gives [`Event::ServerBack`] to its tasks
//! before it lets time pass: nodes could not renew meanwhile.
//!
//! # Invariants
//!
//! * Every event is defined in every state; nothing panics, and no event loses a task.
//! * A new lease is given only when the one before was returned, reported on, or is over by more
//!   than [`GRACE`].
//! * A task that has ended changes only by [`Event::Restart`].

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::NodeId;
use crate::retry::{Attempts, ErrorClass, GiveUp, Retry, RetryPolicy};
use crate::time::{Span, maybe_moment, moment};

/// How long a lease must be over before the task is given to another node.
pub const GRACE: Span = Span::seconds(10);

/// A task, as far as its life is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Where it stands.
    pub state: State,
    /// How often it was tried since it was made or restarted.
    pub attempts: Attempts,
    /// The token of its latest lease; 0 before the first.
    pub token: u64,
}

/// Where a task stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "name")]
pub enum State {
    /// It is to be started.
    Waiting {
        /// Not before, because an attempt failed.
        #[serde(with = "maybe_moment")]
        not_before: Option<Timestamp>,
    },
    /// A node was given it, and has not said that it began.
    Leased {
        /// Whose it is.
        lease: Lease,
    },
    /// A node is at it.
    Running {
        /// Whose it is.
        lease: Lease,
    },
    /// A node is to stop it.
    Cancelling {
        /// Whose it is.
        lease: Lease,
    },
    /// It is done.
    Succeeded,
    /// It is done, with warnings.
    Warned,
    /// It is not done, and is not tried again.
    Failed {
        /// Why.
        why: Failure,
    },
    /// Somebody did not want it any more.
    Cancelled,
}

/// A node's right to a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Whose right.
    pub node: NodeId,
    /// Larger than that of every lease before.
    pub token: u64,
    /// Until when, unless it is renewed.
    #[serde(with = "moment")]
    pub until: Timestamp,
}

/// Why a task failed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum Failure {
    /// An attempt ended badly.
    Error {
        /// How.
        class: ErrorClass,
        /// Why there is no other attempt.
        gave_up: GiveUp,
    },
    /// It could not start within its window.
    WindowMissed,
}

/// What happens to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The queue gives it to a node, for so long.
    Assign {
        /// To whom.
        node: NodeId,
        /// For how long.
        length: Span,
    },
    /// The node has begun.
    Start {
        /// Of its lease.
        token: u64,
    },
    /// The node is still at it, and asks for so long more.
    Renew {
        /// Of its lease.
        token: u64,
        /// For how long.
        length: Span,
    },
    /// The node has ended.
    Finish {
        /// Of its lease.
        token: u64,
        /// How it ended.
        outcome: Outcome,
    },
    /// The node gives it back undone: it is drained, or going down.
    Return {
        /// Of its lease.
        token: u64,
    },
    /// Time has passed.
    Tick,
    /// The server was off, or its clock was set: every lease gets at least so long from now.
    ServerBack {
        /// For how long.
        length: Span,
    },
    /// Somebody does not want it any more.
    Cancel,
    /// Its start window has passed.
    Expire,
    /// Somebody wants it again.
    Restart,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// Well.
    Succeeded,
    /// Well, with warnings.
    Warned,
    /// Badly.
    Failed {
        /// How.
        class: ErrorClass,
    },
    /// It was stopped, as it was told.
    Cancelled,
}

/// What whoever sent the event is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// So it is now.
    Done,
    /// So it was already: the event came twice, or there was nothing to do.
    Same,
    /// To a node: it holds its lease, and should stop cleanly and report.
    Cancel,
    /// To a node: the task is not its own any more. It must stop, and leave everything alone.
    Gone,
    /// It cannot be done.
    Refused(Refusal),
}

/// Why an event changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The task has ended.
    Ended,
    /// A node has it.
    InProgress,
    /// The time of its next attempt has not come.
    NotYet,
    /// It was tried already; its start window does not matter any more.
    Tried,
    /// It is done; what should be done again is a new task.
    DoneAlready,
}

/// What a failed attempt needs to know of the future.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// How often and how soon it is tried again.
    pub retry: &'a RetryPolicy,
    /// Something of the task that stays the same, for [`RetryPolicy::after`].
    pub seed: u64,
}

impl Default for Task {
    fn default() -> Self {
        let state = State::Waiting { not_before: None };
        Self { state, attempts: Attempts::default(), token: 0 }
    }
}

impl State {
    /// Whether nothing more happens by itself.
    pub fn ended(&self) -> bool {
        match self {
            Self::Succeeded | Self::Warned | Self::Failed { .. } | Self::Cancelled => true,
            Self::Waiting { .. }
            | Self::Leased { .. }
            | Self::Running { .. }
            | Self::Cancelling { .. } => false,
        }
    }

    /// The lease, while a node has the task.
    pub fn lease(&self) -> Option<&Lease> {
        match self {
            Self::Leased { lease } | Self::Running { lease } | Self::Cancelling { lease } => {
                Some(lease)
            }
            _ => None,
        }
    }

    fn lease_mut(&mut self) -> Option<&mut Lease> {
        match self {
            Self::Leased { lease } | Self::Running { lease } | Self::Cancelling { lease } => {
                Some(lease)
            }
            _ => None,
        }
    }
}

impl Task {
    /// What `event` makes of the task at `now`.
    pub fn on(&mut self, event: Event, now: Timestamp, terms: Terms<'_>) -> Answer {
        match event {
            Event::Assign { node, length } => self.assign(node, length, now),
            Event::Start { token } => self.start(token),
            Event::Renew { token, length } => self.renew(token, length.after(now)),
            Event::Finish { token, outcome } => self.finish(token, outcome, now, terms),
            Event::Return { token } => self.give_back(token),
            Event::Tick => self.tick(now, terms),
            Event::ServerBack { length } => self.server_back(length.after(now)),
            Event::Cancel => self.cancel(),
            Event::Expire => self.expire(),
            Event::Restart => self.restart(),
        }
    }

    fn assign(&mut self, node: NodeId, length: Span, now: Timestamp) -> Answer {
        match &self.state {
            State::Waiting { not_before: Some(at) } if *at > now => {
                Answer::Refused(Refusal::NotYet)
            }
            State::Waiting { .. } => {
                self.token += 1;
                let lease = Lease { node, token: self.token, until: length.after(now) };
                self.state = State::Leased { lease };
                Answer::Done
            }
            state if state.ended() => Answer::Refused(Refusal::Ended),
            _ => Answer::Refused(Refusal::InProgress),
        }
    }

    fn start(&mut self, token: u64) -> Answer {
        match &self.state {
            State::Leased { lease } if lease.token == token => {
                self.state = State::Running { lease: lease.clone() };
                Answer::Done
            }
            State::Running { lease } if lease.token == token => Answer::Same,
            State::Cancelling { lease } if lease.token == token => Answer::Cancel,
            _ => Answer::Gone,
        }
    }

    fn renew(&mut self, token: u64, until: Timestamp) -> Answer {
        let Some(lease) = self.state.lease_mut().filter(|lease| lease.token == token) else {
            return Answer::Gone;
        };
        // A message that was held up must not make the lease shorter.
        lease.until = lease.until.max(until);
        match self.state {
            State::Cancelling { .. } => Answer::Cancel,
            _ => Answer::Done,
        }
    }

    fn finish(&mut self, token: u64, outcome: Outcome, now: Timestamp, terms: Terms<'_>) -> Answer {
        if self.state.lease().is_none_or(|lease| lease.token != token) {
            // The report came through before, and its answer did not.
            let again = token != 0 && token == self.token && self.state.lease().is_none();
            return if again { Answer::Same } else { Answer::Gone };
        }
        let cancelling = matches!(self.state, State::Cancelling { .. });
        self.state = match outcome {
            // What was done before the node was told is done.
            Outcome::Succeeded => State::Succeeded,
            Outcome::Warned => State::Warned,
            Outcome::Cancelled => State::Cancelled,
            Outcome::Failed { .. } if cancelling => State::Cancelled,
            Outcome::Failed { class } => self.failed(class, now, terms),
        };
        Answer::Done
    }

    /// The state after an attempt that ended badly.
    fn failed(&mut self, class: ErrorClass, now: Timestamp, terms: Terms<'_>) -> State {
        match class {
            ErrorClass::NodeLost => self.attempts.lost = self.attempts.lost.saturating_add(1),
            _ => self.attempts.failed = self.attempts.failed.saturating_add(1),
        }
        match terms.retry.after(class, self.attempts, now, terms.seed) {
            Retry::At(at) => State::Waiting { not_before: (at > now).then_some(at) },
            Retry::GiveUp(gave_up) => State::Failed { why: Failure::Error { class, gave_up } },
        }
    }

    fn give_back(&mut self, token: u64) -> Answer {
        match &self.state {
            State::Leased { lease } | State::Running { lease } if lease.token == token => {
                self.state = State::Waiting { not_before: None };
                Answer::Done
            }
            State::Cancelling { lease } if lease.token == token => {
                self.state = State::Cancelled;
                Answer::Done
            }
            _ => Answer::Gone,
        }
    }

    fn tick(&mut self, now: Timestamp, terms: Terms<'_>) -> Answer {
        if self.state.lease().is_none_or(|lease| now < GRACE.after(lease.until)) {
            return Answer::Same;
        }
        self.state = match self.state {
            State::Cancelling { .. } => State::Cancelled,
            _ => self.failed(ErrorClass::NodeLost, now, terms),
        };
        Answer::Done
    }

    fn server_back(&mut self, until: Timestamp) -> Answer {
        match self.state.lease_mut().filter(|lease| lease.until < until) {
            Some(lease) => {
                lease.until = until;
                Answer::Done
            }
            None => Answer::Same,
        }
    }

    fn cancel(&mut self) -> Answer {
        self.state = match &self.state {
            State::Waiting { .. } => State::Cancelled,
            // One that was only given may have begun already.
            State::Leased { lease } | State::Running { lease } => {
                State::Cancelling { lease: lease.clone() }
            }
            State::Cancelling { .. } | State::Cancelled => return Answer::Same,
            State::Succeeded | State::Warned | State::Failed { .. } => {
                return Answer::Refused(Refusal::Ended);
            }
        };
        Answer::Done
    }

    fn expire(&mut self) -> Answer {
        match &self.state {
            State::Waiting { .. } if self.attempts == Attempts::default() => {
                self.state = State::Failed { why: Failure::WindowMissed };
                Answer::Done
            }
            State::Waiting { .. } => Answer::Refused(Refusal::Tried),
            State::Failed { why: Failure::WindowMissed } => Answer::Same,
            state if state.ended() => Answer::Refused(Refusal::Ended),
            _ => Answer::Refused(Refusal::InProgress),
        }
    }

    fn restart(&mut self) -> Answer {
        match &self.state {
            State::Failed { .. } | State::Cancelled => {
                self.state = State::Waiting { not_before: None };
                self.attempts = Attempts::default();
                Answer::Done
            }
            State::Waiting { .. } => Answer::Same,
            State::Succeeded | State::Warned => Answer::Refused(Refusal::DoneAlready),
            _ => Answer::Refused(Refusal::InProgress),
        }
    }
}

#[cfg(test)]
mod tests;
