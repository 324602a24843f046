//! Streams of events that are open. Each is a question to the database twice a second, for as long
//! as somebody watches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use sluice_catalog::UserId;

use crate::problem::{Problem, Result};

/// Streams of one user at a time.
const MOST: usize = 16;

/// How many streams each user has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watchers(Arc<Mutex<BTreeMap<UserId, usize>>>);

/// A stream's place among them, given back when dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    all: Watchers,
    user: UserId,
}

impl Watchers {
    /// A place for one more stream of a user.
    pub(crate) fn enter(&self, user: UserId) -> Result<Watcher> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let many = all.entry(user).or_default();
        if *many >= MOST {
            let text = format!("you watch {MOST} tasks already: end one of these streams first");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-streams", text));
        }
        *many += 1;
        Ok(Watcher { all: self.clone(), user })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(many) = all.get_mut(&self.user) {
            *many -= 1;
            if *many == 0 {
                all.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_so_many_streams_and_others_have_theirs() {
        let all = Watchers::default();
        let (anna, otto) = (UserId::new(1), UserId::new(2));
        let mut open: Vec<_> = (0..MOST).map(|_| all.enter(anna).unwrap()).collect();
        assert_eq!(all.enter(anna).unwrap_err().status, 429);
        drop(all.enter(otto).unwrap());
        open.pop();
        open.push(all.enter(anna).unwrap());
        drop(open);
        assert!(all.0.lock().unwrap().is_empty());
    }
}
