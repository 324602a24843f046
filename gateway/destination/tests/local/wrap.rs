use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use sluice_destination::memory::MemoryDestination;
use sluice_destination::wrap::{
    Count, Effect, Fault, Limit, Operation, Retry, RetryPolicy, Rule, Snapshot,
};
use sluice_destination::{ByteRange, Destination, ErrorKind, Key, ListPage, ObjectMeta, Result};

const QUICK: RetryPolicy = RetryPolicy {
    attempts: 4,
    base: Duration::from_millis(1),
    cap: Duration::from_millis(2),
    total: Duration::from_secs(60),
};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn body(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// A faulty store, and a retry around a count around it.
fn stack(policy: RetryPolicy) -> (Arc<Fault>, Arc<Count>, Retry) {
    let fault = Fault::new(Arc::new(MemoryDestination::new()));
    let count = Arc::new(Count::new(fault.clone()));
    let retry = Retry::new(count.clone(), policy);
    (fault, count, retry)
}

fn requests(count: &Count) -> u64 {
    count.counters().snapshot().requests()
}

#[tokio::test]
async fn retry_repeats_what_may_succeed() {
    let (fault, count, retry) = stack(QUICK);
    fault.inject(Rule::new(Effect::Fail(ErrorKind::Unavailable)).times(3));
    retry.put_new(&key("a"), body("a")).await.unwrap();
    assert_eq!(requests(&count), 4);
    fault.inject(Rule::new(Effect::Fail(ErrorKind::Unavailable)).times(3));
    assert_eq!(retry.get(&key("a"), ByteRange::Full).await.unwrap(), "a");
    assert_eq!(requests(&count), 8);
}

#[tokio::test]
async fn retry_gives_up_after_its_attempts_or_its_time() {
    let hurried = RetryPolicy { total: Duration::ZERO, base: Duration::from_secs(9), ..QUICK };
    for (policy, attempts) in [(QUICK, 4), (RetryPolicy::NEVER, 1), (hurried, 1)] {
        let (fault, count, retry) = stack(policy);
        fault.inject(Rule::new(Effect::Fail(ErrorKind::Unavailable)));
        let error = retry.head(&key("a")).await.unwrap_err();
        assert_eq!((error.kind(), requests(&count)), (ErrorKind::Unavailable, attempts));
    }
}

#[tokio::test]
async fn retry_does_not_repeat_what_cannot_succeed() {
    for kind in [ErrorKind::NotFound, ErrorKind::NoSpace, ErrorKind::AccessDenied] {
        let (fault, count, retry) = stack(QUICK);
        fault.inject(Rule::new(Effect::Fail(kind)));
        assert_eq!(retry.delete(&key("a")).await.unwrap_err().kind(), kind);
        assert_eq!(requests(&count), 1);
    }
}

#[tokio::test]
async fn a_repeated_put_new_reports_its_own_object_as_taken() {
    let (fault, _, retry) = stack(QUICK);
    fault.inject(Rule::new(Effect::FailAfter(ErrorKind::Unavailable)).once());
    let error = retry.put_new(&key("a"), body("ours")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(retry.get(&key("a"), ByteRange::Full).await.unwrap(), "ours");
}

#[tokio::test]
async fn counts_are_exact_and_can_be_subtracted() {
    let count = Count::new(Arc::new(MemoryDestination::new()));
    count.put_new(&key("a"), body("12345")).await.unwrap();
    count.put(&key("b"), body("123")).await.unwrap();
    let before = count.counters().snapshot();
    count.put_new(&key("a"), body("12345")).await.unwrap_err();
    count.get(&key("a"), ByteRange::Suffix(2)).await.unwrap();
    count.get(&key("c"), ByteRange::Full).await.unwrap_err();
    count.head(&key("a")).await.unwrap();
    count.list("", None, 10).await.unwrap();
    count.delete(&key("a")).await.unwrap();
    let after = count.counters().snapshot();
    assert_eq!((before.put.requests, before.put.bytes, before.requests()), (2, 8, 2));
    let part = after - before;
    assert_eq!((part.put.requests, part.put.failures, part.put.bytes), (1, 1, 0));
    assert_eq!((part.get.requests, part.get.failures, part.get.bytes), (2, 1, 2));
    assert_eq!((part.head.requests, part.list.requests, part.delete.requests), (1, 1, 1));
    let json = serde_json::to_string(&after).unwrap();
    assert!(json.contains(r#""put":{"requests":3,"failures":1,"bytes":8}"#), "{json}");
    assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), after);
}

/// Counts how many gets or removals run at a time; knows nothing else.
#[derive(Debug, Default)]
struct Gauge {
    now: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl Destination for Gauge {
    fn location(&self) -> String {
        "gauge:".into()
    }
    async fn get(&self, _: &Key, _: ByteRange) -> Result<Bytes> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        self.now.fetch_sub(1, Ordering::SeqCst);
        Ok(Bytes::new())
    }
    async fn put_new(&self, _: &Key, _: Bytes) -> Result<()> {
        unreachable!("only gets and removals are measured")
    }
    async fn put(&self, _: &Key, _: Bytes) -> Result<()> {
        unreachable!("only gets and removals are measured")
    }
    async fn head(&self, _: &Key) -> Result<ObjectMeta> {
        unreachable!("only gets and removals are measured")
    }
    async fn list(&self, _: &str, _: Option<&Key>, _: usize) -> Result<ListPage> {
        unreachable!("only gets and removals are measured")
    }
    async fn delete(&self, key: &Key) -> Result<()> {
        self.get(key, ByteRange::Full).await.map(drop)
    }
}

#[tokio::test]
async fn limit_fills_its_places_and_no_more() {
    for (places, wanted) in [(3, 3), (1, 1), (0, 1), (100, 20)] {
        let gauge = Arc::new(Gauge::default());
        let limit = Limit::new(gauge.clone(), places);
        let name = key("a");
        let gets = (0..20).map(|_| limit.get(&name, ByteRange::Full));
        assert!(join_all(gets).await.iter().all(Result::is_ok));
        assert_eq!(gauge.most.load(Ordering::SeqCst), wanted, "{places} places");
    }
    // One call that removes many takes a place for each request, too.
    let gauge = Arc::new(Gauge::default());
    let keys: Vec<_> = (0..20).map(|at| key(&format!("k/{at}"))).collect();
    Limit::new(gauge.clone(), 3).delete_many(&keys).await.unwrap();
    assert_eq!(gauge.most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn faults_hit_the_operations_they_are_for() {
    let fault = Fault::new(Arc::new(MemoryDestination::new()));
    let full = Rule::new(Effect::Fail(ErrorKind::NoSpace)).on(Operation::PUTS).below("d/");
    fault.inject(full.skip(1).times(2));
    fault.put(&key("d/1"), body("x")).await.unwrap();
    fault.put(&key("e/1"), body("x")).await.unwrap();
    for name in ["d/2", "d/3"] {
        let error = fault.put_new(&key(name), body("x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
    }
    fault.put_new(&key("d/4"), body("x")).await.unwrap();
    assert_eq!(fault.injected(), 2);
    let names = fault.list("", None, 10).await.unwrap().objects;
    let names: Vec<_> = names.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(names, ["d/1", "d/4", "e/1"]);
}

#[tokio::test]
async fn got_bodies_are_damaged_as_told() {
    let fault = Fault::new(Arc::new(MemoryDestination::new()));
    fault.put(&key("a"), body("abc")).await.unwrap();
    fault.inject(Rule::new(Effect::FlipBit(8)).once());
    fault.inject(Rule::new(Effect::Truncate(2)).once());
    assert_eq!(fault.get(&key("a"), ByteRange::Full).await.unwrap(), "acc");
    assert_eq!(fault.get(&key("a"), ByteRange::Full).await.unwrap(), "ab");
    assert_eq!(fault.get(&key("a"), ByteRange::Full).await.unwrap(), "abc");
}

#[tokio::test]
async fn a_crash_ends_everything_after_it() {
    for (effect, survives) in [(Effect::Die, false), (Effect::DieAfter, true)] {
        let store = Arc::new(MemoryDestination::new());
        let fault = Fault::new(store.clone());
        fault.inject(Rule::new(effect).on(Operation::WRITES).skip(1));
        fault.put_new(&key("a"), body("a")).await.unwrap();
        fault.get(&key("a"), ByteRange::Full).await.unwrap();
        let error = fault.put_new(&key("b"), body("b")).await.unwrap_err();
        assert!(!error.is_retryable() && fault.is_dead());
        assert_eq!(store.head(&key("b")).await.is_ok(), survives);
        fault.get(&key("a"), ByteRange::Full).await.unwrap_err();
        fault.list("", None, 1).await.unwrap_err();
        fault.heal();
        fault.get(&key("a"), ByteRange::Full).await.unwrap();
    }
}

#[tokio::test]
async fn removals_of_many_cost_what_they_cost() {
    let (fault, count, retry) = stack(QUICK);
    let keys: Vec<_> = (0..20).map(|at| key(&format!("k/{at:02}"))).collect();
    for name in &keys {
        retry.put(name, body("x")).await.unwrap();
    }
    let before = count.counters().snapshot();
    let busy = Rule::new(Effect::Fail(ErrorKind::Unavailable)).below("k/07");
    fault.inject(busy.clone().once());
    retry.delete_many(&keys).await.unwrap();
    assert!(fault.list("", None, 1).await.unwrap().objects.is_empty());
    let part = count.counters().snapshot() - before;
    // All of them twice, as one of them failed.
    assert_eq!((part.delete.requests, part.delete.failures), (40, 1));
    fault.inject(busy);
    let error = retry.delete_many(&keys).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_fault_at_one_removal_leaves_the_others() {
    let lost = Effect::FailAfter(ErrorKind::Unavailable);
    for (effect, survives) in [(Effect::Fail(ErrorKind::AccessDenied), true), (lost, false)] {
        let store = Arc::new(MemoryDestination::new());
        let fault = Fault::new(store.clone());
        let keys = ["a", "b", "c"].map(key);
        for name in &keys {
            fault.put(name, body("x")).await.unwrap();
        }
        fault.inject(Rule::new(effect).on(&[Operation::Delete]).below("b"));
        fault.delete_many(&keys).await.unwrap_err();
        assert_eq!(store.len(), usize::from(survives));
    }
}
