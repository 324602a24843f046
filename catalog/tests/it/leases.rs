//! The life of a task under every order of what may happen to it, against a model of it.

use serde_json::json;
use sluice_catalog::{ErrorKind, LeaseMark, NewTask, NodeId, TaskId, TaskState, Tx, Visible};

use crate::support::{Lab, on_both};
use crate::tasks::{backup, node};

on_both! {
    whatever_comes_in_whatever_order_only_the_holder_counts
}

const ATTEMPTS: u32 = 6;

/// Numbers that are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, many: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % many
    }
}

/// What must be so.
struct Model {
    task: TaskId,
    attempts: u32,
    holder: Option<(NodeId, u32)>,
    cancelled: bool,
    ended: bool,
    /// All marks that its leases ever had.
    marks: Vec<LeaseMark>,
}

impl Model {
    async fn begin(tx: &mut Tx) -> Self {
        let new = NewTask { max_attempts: ATTEMPTS, ..backup() };
        let task = tx.add_task(&new, 1).await.unwrap().unwrap();
        Self { task, attempts: 0, holder: None, cancelled: false, ended: false, marks: Vec::new() }
    }

    /// An attempt has come to nothing.
    fn failed(&mut self) {
        self.holder = None;
        self.ended = self.cancelled || self.attempts >= ATTEMPTS;
    }

    /// Something happens. Reports may be of any node and any attempt, and reclaims of any mark.
    async fn step(&mut self, tx: &mut Tx, dice: &mut Dice, nodes: &[NodeId], now: u64) {
        let node = nodes[usize::try_from(dice.below(nodes.len() as u64)).unwrap()];
        let attempt = u32::try_from(dice.below(u64::from(self.attempts) + 2)).unwrap();
        let (lease, own) = ((self.task, node, attempt), self.holder == Some((node, attempt)));
        match dice.below(12) {
            0..3 => {
                let got = tx.lease(self.task, node, now, now + 10).await.unwrap().is_some();
                assert_eq!(got, !self.ended && self.holder.is_none());
                if got {
                    self.attempts += 1;
                    self.holder = Some((node, self.attempts));
                }
            }
            3..7 => {
                let renewed = tx.renew(self.task, node, attempt, None, now + 10).await;
                assert_eq!(renewed.is_ok(), own);
                assert!(renewed.is_ok_and(|task| task.cancel_requested == self.cancelled) == own);
            }
            7 => {
                let done = TaskState::Succeeded;
                let told = tx.finish(lease, done, &json!(1), "", None, now).await;
                assert_eq!(told.is_ok(), own);
                if own {
                    (self.holder, self.ended) = (None, true);
                }
            }
            8 => {
                let failed = TaskState::Failed;
                let told = tx.finish(lease, failed, &json!(1), "no", Some(0), now).await;
                match told {
                    Ok(_) => assert!(own),
                    Err(error) => assert!(!own && error.kind() == ErrorKind::Stale),
                }
                if own {
                    self.failed();
                }
            }
            9..11 if !self.marks.is_empty() => {
                let at = dice.below(self.marks.len() as u64);
                let mark = self.marks[usize::try_from(at).unwrap()];
                let current = tx.leases().await.unwrap() == [mark];
                let back = tx.reclaim(&[mark], now).await.unwrap();
                assert_eq!(back.len(), usize::from(current), "an old mark takes nothing away");
                if current {
                    self.failed();
                }
            }
            11 if dice.below(8) == 0 => {
                assert_eq!(tx.cancel(self.task, now).await.is_ok(), !self.ended);
                self.cancelled |= !self.ended;
                self.ended |= self.holder.is_none();
            }
            _ => {}
        }
    }

    async fn check(&mut self, tx: &mut Tx) {
        let task = tx.task(self.task, &Visible::All).await.unwrap();
        assert_eq!(task.state.is_final(), self.ended, "{task:?}");
        assert_eq!(task.finished_ms.is_some(), self.ended, "{task:?}");
        assert_eq!(task.state == TaskState::Running, self.holder.is_some(), "{task:?}");
        assert_eq!(task.attempt, self.attempts);
        let marks = tx.leases().await.unwrap();
        assert_eq!(marks.len(), usize::from(self.holder.is_some()));
        for mark in marks {
            if !self.marks.contains(&mark) {
                self.marks.push(mark);
            }
        }
    }
}

async fn whatever_comes_in_whatever_order_only_the_holder_counts(Lab { catalog, .. }: Lab) {
    let mut nodes = Vec::new();
    for name in ["one", "two", "three"] {
        nodes.push(node(&catalog, name).await.id);
    }
    let mut tx = catalog.begin().await.unwrap();
    let mut dice = Dice(7);
    let (mut ends, mut now) = (0, 1_000_000u64);
    for _ in 0..40 {
        let mut model = Model::begin(&mut tx).await;
        for _ in 0..200 {
            // The clock goes where it likes.
            now = now - 500_000 + dice.below(1_000_001);
            now = now.max(1_000_000);
            model.step(&mut tx, &mut dice, &nodes, now).await;
            model.check(&mut tx).await;
        }
        ends += usize::from(model.ended);
        // Nothing of it is left for the next.
        if let Some((node, attempt)) = model.holder {
            let lease = (model.task, node, attempt);
            let done = TaskState::Succeeded;
            tx.finish(lease, done, &json!(1), "", None, now).await.unwrap();
        }
    }
    assert!(ends > 10, "{ends}");
}
