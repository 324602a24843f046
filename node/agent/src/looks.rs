//! Questions about the files of mounts: the node waits for them at the server, and answers.
//!
//! # Invariants
//!
//! * A mount has [`OF_A_MOUNT`] places. What it is read from may stall, and then only its own
//!   questions wait: a place is given back when the look has really ended, and not before.
//! * A question is answered in [`PATIENCE`], whatever becomes of the look.
//! * What is under way is bounded ([`AT_A_TIME`]), and with it the memory and the threads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde_json::Value;
use sluice_node_api::{LookAnswer, LookOrder, Unseen};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, PAUSE};
use crate::mounts::Mounts;

/// Waits at a server: while one question is taken over, another may come.
pub(crate) const WAITS: usize = 2;
/// Questions at a time: more than one server has under way for all of its projects.
const AT_A_TIME: usize = 64;
/// Looks at one mount at a time. A download asks for the next piece while one is under way.
const OF_A_MOUNT: usize = 2;
/// How long a question may take, its wait for a place included: who asks waits 45 s.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait before a server is asked again that knows no such questions.
const UNKNOWN: Duration = Duration::from_secs(60);

/// The places of questions.
pub(crate) struct Desk {
    all: Arc<Semaphore>,
    /// The places of each mount that is looked at.
    mounts: Mutex<BTreeMap<String, Weak<Semaphore>>>,
    patience: Duration,
}

impl Default for Desk {
    fn default() -> Self {
        let all = Arc::new(Semaphore::new(AT_A_TIME));
        Self { all, mounts: Mutex::default(), patience: PATIENCE }
    }
}

impl Desk {
    /// The places of a mount.
    fn of(&self, mount: &str) -> Arc<Semaphore> {
        let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = mounts.get(mount).and_then(Weak::upgrade) {
            return places;
        }
        mounts.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(OF_A_MOUNT));
        mounts.insert(mount.to_owned(), Arc::downgrade(&places));
        places
    }

    /// The answer to a question.
    async fn answer(&self, mounts: Arc<dyn Mounts>, order: LookOrder) -> LookAnswer {
        let places = self.of(&order.mount);
        let looked = async {
            let place = places.acquire_owned().await.ok()?;
            // It goes on when nobody waits for it any more, and keeps its place until then.
            let looking = tokio::spawn(async move {
                let answer = mounts.look(&order).await;
                drop(place);
                answer
            });
            looking.await.ok()
        };
        let looked = tokio::time::timeout(self.patience, looked).await;
        looked.ok().flatten().unwrap_or_else(|| LookAnswer::Refused {
            why: Unseen::Failed,
            message: "what is mounted there does not answer in time".into(),
        })
    }
}

impl Agent {
    /// Takes questions and answers them, until `shutdown`.
    pub(crate) async fn answer_looks(
        self: Arc<Self>,
        desk: Arc<Desk>,
        mounts: Arc<dyn Mounts>,
        shutdown: CancellationToken,
    ) {
        let mut answering = JoinSet::new();
        let take = async {
            while let Ok(place) = Arc::clone(&desk.all).acquire_owned().await {
                while answering.try_join_next().is_some() {}
                let asked = self.client.post::<Option<LookOrder>>("/api/node/v1/looks", &()).await;
                match asked {
                    // The server has waited already.
                    Ok(None) => {}
                    Ok(Some(order)) => {
                        let (agent, desk) = (Arc::clone(&self), Arc::clone(&desk));
                        let mounts = Arc::clone(&mounts);
                        answering.spawn(async move {
                            agent.answer_look(&desk, mounts, order).await;
                            drop(place);
                        });
                    }
                    // A server of an earlier release.
                    Err(error) if [Some(404), Some(405)].contains(&error.status()) => {
                        tokio::time::sleep(UNKNOWN).await;
                    }
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = take => {}
        }
    }

    async fn answer_look(&self, desk: &Desk, mounts: Arc<dyn Mounts>, order: LookOrder) {
        let path = format!("/api/node/v1/looks/{}", order.id);
        let answer = desk.answer(mounts, order).await;
        // Whoever asked may ask again.
        if let Err(error) = self.client.post::<Value>(&path, &answer).await {
            tracing::debug!("a question of a mount was not answered: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use sluice_node_api::{Held, Look, MountOrder, Work};

    use super::*;
    use crate::mounts::Refused;

    /// Mounts of which one is read from something that has stalled.
    struct Stalled {
        /// Looks at it that have begun.
        begun: Semaphore,
        /// What they wait for.
        again: Semaphore,
    }

    #[async_trait]
    impl Mounts for Stalled {
        async fn mount(&self, _: &MountOrder, _: &Work) -> Result<Value, Refused> {
            unreachable!("nothing is mounted here")
        }

        async fn unmount(&self, _: &str) -> Result<(), Refused> {
            unreachable!("nothing is mounted here")
        }

        async fn held(&self) -> Option<Vec<Held>> {
            None
        }

        async fn renew(&self, _: &str, _: u64) {}

        async fn supply(&self, _: &str, _: BTreeMap<String, String>) {}

        async fn look(&self, order: &LookOrder) -> LookAnswer {
            if order.mount == "stalled" {
                self.begun.add_permits(1);
                self.again.acquire().await.unwrap().forget();
            }
            LookAnswer::Folder { entries: Vec::new(), more: false }
        }
    }

    fn order(mount: &str) -> LookOrder {
        let (id, path) = ("l".to_owned(), String::new());
        LookOrder { id, mount: mount.into(), path, what: Look::Stat {} }
    }

    fn told(answer: &LookAnswer) -> bool {
        matches!(answer, LookAnswer::Folder { .. })
    }

    #[tokio::test]
    async fn a_mount_that_stalls_keeps_nobody_else_waiting_and_is_given_up() {
        let mounts = Arc::new(Stalled { begun: Semaphore::new(0), again: Semaphore::new(0) });
        let desk = Arc::new(Desk::default());
        let ask = |mount: &str| {
            let (desk, order) = (Arc::clone(&desk), order(mount));
            let mounts: Arc<dyn Mounts> = Arc::<Stalled>::clone(&mounts);
            tokio::spawn(async move { desk.answer(mounts, order).await })
        };
        let stalled: Vec<_> = (0..AT_A_TIME / 2).map(|_| ask("stalled")).collect();
        mounts.begun.acquire_many(2).await.unwrap().forget();
        assert!(told(&ask("well").await.unwrap()), "others are answered meanwhile");
        assert_eq!(mounts.begun.available_permits(), 0, "its other questions wait");
        // It goes on.
        mounts.again.add_permits(stalled.len());
        for one in stalled {
            assert!(told(&one.await.unwrap()));
        }

        let brief = Arc::new(Desk { patience: Duration::from_millis(10), ..Desk::default() });
        for _ in 0..=OF_A_MOUNT {
            let answer = brief.answer(Arc::<Stalled>::clone(&mounts), order("stalled")).await;
            assert!(matches!(answer, LookAnswer::Refused { why: Unseen::Failed, .. }));
        }
        let places = brief.of("stalled");
        assert_eq!(places.available_permits(), 0, "who was given up keeps its place");
        mounts.again.add_permits(OF_A_MOUNT);
        let all = u32::try_from(OF_A_MOUNT).unwrap();
        drop(places.acquire_many(all).await.unwrap());
        assert!(told(&brief.answer(mounts, order("well")).await));
    }
}
