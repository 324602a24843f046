use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::Repaired;
use crate::many::conclude;
use crate::{
    ByteRange, Destination, DestinationError, ErrorKind, Key, ListPage, Lock, ObjectMeta, Result,
};

/// What a [`Rule`] can match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A conditional put, also of a locked object.
    PutNew,
    /// An unconditional put, also of a locked object; a change of a lock.
    Put,
    /// A get.
    Get,
    /// A head, or a question for a lock.
    Head,
    /// A page of a listing; its prefix is matched like a key.
    List,
    /// A removal; each of many by itself.
    Delete,
}

impl Operation {
    /// Both kinds of put.
    pub const PUTS: &'static [Self] = &[Self::PutNew, Self::Put];
    /// What changes the destination.
    pub const WRITES: &'static [Self] = &[Self::PutNew, Self::Put, Self::Delete];
}

/// What happens to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It fails and does nothing.
    Fail(ErrorKind),
    /// It happens, and its answer is lost.
    FailAfter(ErrorKind),
    /// It fails and does nothing, and so does everything that follows: a crash before it.
    Die,
    /// It happens, and everything from its answer on fails: a crash after it.
    DieAfter,
    /// One bit of a got body is flipped, counted from its start modulo its length.
    FlipBit(usize),
    /// A got body ends after this many bytes.
    Truncate(usize),
    /// A put_new does not look whether the key is taken.
    IgnoreCondition,
    /// A listing is empty, as of a store whose listings lag behind.
    ListNothing,
    /// It happens this much later.
    Delay(Duration),
    /// It never ends.
    Stall,
    /// It happens when the destination is healed.
    Hold,
}

/// Which operations get an [`Effect`]: by default every one, from the first, for ever.
#[derive(Debug, Clone)]
pub struct Rule {
    effect: Effect,
    operations: &'static [Operation],
    prefix: String,
    skip: u64,
    times: u64,
}

impl Rule {
    /// A rule for every operation.
    pub fn new(effect: Effect) -> Self {
        Self { effect, operations: &[], prefix: String::new(), skip: 0, times: u64::MAX }
    }

    /// Only these operations.
    #[must_use]
    pub fn on(mut self, operations: &'static [Operation]) -> Self {
        self.operations = operations;
        self
    }

    /// Only keys that start so.
    #[must_use]
    pub fn below(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Not the first `count` matching operations.
    #[must_use]
    pub fn skip(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Not more than `count` operations.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    /// Only the next matching operation.
    #[must_use]
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// Whether the rule matches, and it is its turn.
    fn draw(&mut self, operation: Operation, key: &str) -> bool {
        let matches = (self.operations.is_empty() || self.operations.contains(&operation))
            && key.starts_with(&self.prefix);
        if !matches || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}

/// A destination that misbehaves as it is told, for tests of everything above it.
///
/// The first rule whose turn it is decides about an operation.
#[derive(Debug)]
pub struct Fault {
    inner: Arc<dyn Destination>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    dead: bool,
    injected: u64,
}

impl Fault {
    /// A destination that behaves until it is given rules.
    pub fn new(inner: Arc<dyn Destination>) -> Arc<Self> {
        Arc::new(Self { inner, state: Mutex::default() })
    }

    /// Adds a rule behind the ones there are.
    pub fn inject(&self, rule: Rule) {
        self.state.lock().rules.push(rule);
    }

    /// Forgets all rules and comes back to life.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.rules.clear();
        state.dead = false;
    }

    /// Whether a rule has killed it.
    pub fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    /// Number of operations a rule decided about.
    pub fn injected(&self) -> u64 {
        self.state.lock().injected
    }

    fn draw(&self, operation: Operation, key: &str) -> Result<Option<Effect>> {
        let mut state = self.state.lock();
        if state.dead {
            return Err(dead());
        }
        let drawn = state.rules.iter_mut().find_map(|rule| {
            let effect = rule.effect;
            rule.draw(operation, key).then_some(effect)
        });
        state.injected += u64::from(drawn.is_some());
        if matches!(drawn, Some(Effect::Die | Effect::DieAfter)) {
            state.dead = true;
        }
        Ok(drawn)
    }

    /// Runs `call` under the rule that matches, and tells it which effect that has.
    async fn run<T, Fut>(
        &self,
        operation: Operation,
        key: &str,
        call: impl FnOnce(Option<Effect>) -> Fut,
    ) -> Result<T>
    where
        Fut: Future<Output = Result<T>>,
    {
        let drawn = self.draw(operation, key)?;
        self.apply(drawn, key, call).await
    }

    /// Waits until nothing is held any more.
    async fn healed(&self) {
        let holds = || self.state.lock().rules.iter().any(|rule| rule.effect == Effect::Hold);
        while holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Runs `call` under the effect that was drawn for it.
    async fn apply<T, Fut>(
        &self,
        drawn: Option<Effect>,
        key: &str,
        call: impl FnOnce(Option<Effect>) -> Fut,
    ) -> Result<T>
    where
        Fut: Future<Output = Result<T>>,
    {
        let lost = |kind| DestinationError::new(kind, format!("injected fault at {key}"));
        match drawn {
            Some(Effect::Fail(kind)) => return Err(lost(kind)),
            Some(Effect::Die) => return Err(dead()),
            Some(Effect::Stall) => std::future::pending().await,
            Some(Effect::Delay(time)) => tokio::time::sleep(time).await,
            Some(Effect::Hold) => self.healed().await,
            _ => {}
        }
        let value = call(drawn).await?;
        if self.is_dead() {
            // Nobody is left to hear the answer, also of what ran beside the fatal operation.
            return Err(dead());
        }
        match drawn {
            Some(Effect::FailAfter(kind)) => Err(lost(kind)),
            _ => Ok(value),
        }
    }
}

fn dead() -> DestinationError {
    DestinationError::new(ErrorKind::Other, "injected crash: the destination is gone")
}

fn damage(body: Bytes, effect: Option<Effect>) -> Bytes {
    match effect {
        Some(Effect::Truncate(length)) => body.slice(..length.min(body.len())),
        Some(Effect::FlipBit(bit)) if !body.is_empty() => {
            let mut changed = BytesMut::from(body);
            let at = (bit / 8) % changed.len();
            changed[at] ^= 1 << (bit % 8);
            changed.freeze()
        }
        _ => body,
    }
}

#[async_trait]
impl Destination for Fault {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        self.run(Operation::PutNew, key.as_str(), |effect| async move {
            if effect == Some(Effect::IgnoreCondition) {
                return self.inner.put(key, body).await;
            }
            self.inner.put_new(key, body).await
        })
        .await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.run(Operation::Put, key.as_str(), |_| self.inner.put(key, body)).await
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Bytes> {
        self.run(Operation::Get, key.as_str(), |effect| async move {
            self.inner.get(key, range).await.map(|body| damage(body, effect))
        })
        .await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.run(Operation::Head, key.as_str(), |_| self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage> {
        self.run(Operation::List, prefix, |effect| async move {
            if effect == Some(Effect::ListNothing) {
                return Ok(ListPage::default());
            }
            self.inner.list(prefix, after, limit).await
        })
        .await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.run(Operation::Delete, key.as_str(), |_| self.inner.delete(key)).await
    }

    /// Each key is an operation of its own for the rules; those without a rule go together.
    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        let mut failures = Vec::new();
        let mut plain = Vec::new();
        for key in keys {
            let Some(effect) = self.draw(Operation::Delete, key.as_str())? else {
                plain.push(key.clone());
                continue;
            };
            failures.extend(self.inner.delete_many(&std::mem::take(&mut plain)).await.err());
            let delete = |_| self.inner.delete(key);
            failures.extend(self.apply(Some(effect), key.as_str(), delete).await.err());
        }
        if !plain.is_empty() {
            failures.extend(self.inner.delete_many(&plain).await.err());
        }
        if self.is_dead() {
            return Err(dead());
        }
        conclude(failures)
    }

    async fn put_locked(
        &self,
        key: &Key,
        body: Bytes,
        create_only: bool,
        lock: &Lock,
    ) -> Result<()> {
        let operation = if create_only { Operation::PutNew } else { Operation::Put };
        self.run(operation, key.as_str(), |effect| {
            let create_only = create_only && effect != Some(Effect::IgnoreCondition);
            self.inner.put_locked(key, body, create_only, lock)
        })
        .await
    }

    async fn extend_lock(&self, key: &Key, lock: &Lock) -> Result<()> {
        self.run(Operation::Put, key.as_str(), |_| self.inner.extend_lock(key, lock)).await
    }

    async fn lock_of(&self, key: &Key) -> Result<Option<Lock>> {
        self.run(Operation::Head, key.as_str(), |_| self.inner.lock_of(key)).await
    }

    async fn keeps_locks(&self, key: &Key, lock: &Lock) -> Result<bool> {
        self.run(Operation::Put, key.as_str(), |_| self.inner.keeps_locks(key, lock)).await
    }

    fn deletes_per_request(&self) -> usize {
        self.inner.deletes_per_request()
    }

    fn creates_atomically(&self) -> bool {
        self.inner.creates_atomically()
    }

    fn fills_up(&self) -> bool {
        self.inner.fills_up()
    }

    fn arbitrated(&self) -> bool {
        self.inner.arbitrated()
    }

    async fn repair_copies(&self) -> Result<Repaired> {
        self.inner.repair_copies().await
    }

    async fn verifies_checksums(&self, key: &Key) -> Result<bool> {
        self.run(Operation::Put, key.as_str(), |_| self.inner.verifies_checksums(key)).await
    }
}
