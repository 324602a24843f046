//! A store that cannot decide races, beside an arbiter that can.

use std::sync::Arc;

use bytes::Bytes;
use sluice_destination::memory::MemoryDestination;
use sluice_destination::probe::probe;
use sluice_destination::url::{OpenOptions, open};
use sluice_destination::wrap::{
    Arbiter, Effect, Fault, Operation, Repaired, Retry, RetryPolicy, Rule,
};
use sluice_destination::{
    ByteRange, Destination, DestinationError, ErrorKind, Key, conformance, list_after, list_all,
};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// A store that ignores conditions, its arbiter, and the pair of both.
struct Pair {
    store: Arc<Fault>,
    arbiter: Arc<Fault>,
    both: Arbiter,
}

impl Pair {
    fn new() -> Self {
        let store = Fault::new(Arc::new(MemoryDestination::new()));
        let arbiter = Fault::new(Arc::new(MemoryDestination::new()));
        store.inject(Rule::new(Effect::IgnoreCondition).on(&[Operation::PutNew]));
        let both = Arbiter::new(store.clone(), arbiter.clone());
        Self { store, arbiter, both }
    }

    async fn put(&self, name: &str) {
        self.both.put_new(&key(name), Bytes::from(name.to_owned())).await.unwrap();
    }
}

async fn names(destination: &dyn Destination) -> Vec<String> {
    let all = list_all(destination, "").await.unwrap();
    all.into_iter().map(|object| object.key.to_string()).collect()
}

/// One object of each kind a repository has.
const KINDS: [&str; 10] = [
    "d/0a/pack.0",
    "format",
    "g/run",
    "h/head",
    "keys/slot",
    "m/0a/pack.0",
    "p/pin",
    "r/default/chain/point",
    "s/session",
    "x/default/segment",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pair_keeps_the_contract() {
    conformance::run(|| async { Arc::new(Pair::new().both) as Arc<dyn Destination> }).await;
}

#[tokio::test]
async fn data_lies_on_the_store_and_decisions_on_the_arbiter() {
    let pair = Pair::new();
    for name in KINDS {
        pair.put(name).await;
        assert_eq!(pair.both.get(&key(name), ByteRange::Full).await.unwrap(), name);
        assert_eq!(pair.both.head(&key(name)).await.unwrap().size, name.len() as u64);
    }
    let copied = ["format", "h/head", "keys/slot", "r/default/chain/point"];
    let data = ["d/0a/pack.0", "m/0a/pack.0", "x/default/segment"];
    let on_store: Vec<_> =
        KINDS.into_iter().filter(|name| copied.contains(name) || data.contains(name)).collect();
    assert_eq!(names(&*pair.store).await, on_store);
    let on_arbiter: Vec<_> = KINDS.into_iter().filter(|name| !data.contains(name)).collect();
    assert_eq!(names(&*pair.arbiter).await, on_arbiter);
    assert_eq!(names(&pair.both).await, KINDS);

    let all: Vec<_> = KINDS.into_iter().map(key).collect();
    pair.both.delete(&all[3]).await.unwrap();
    pair.both.delete_many(&all).await.unwrap();
    assert!(names(&*pair.store).await.is_empty() && names(&*pair.arbiter).await.is_empty());
}

#[tokio::test]
async fn listings_of_both_are_one_listing() {
    let pair = Pair::new();
    let model = MemoryDestination::new();
    let more = ["d/0b/pack.1", "da", "d0/x", "m/0b/pack.1", "r/default/chain/zoint", "y", "x/a"];
    for name in KINDS.into_iter().chain(more) {
        pair.put(name).await;
        model.put(&key(name), Bytes::from(name)).await.unwrap();
    }
    for prefix in ["", "d", "d/", "d/0", "m", "x/", "r/", "f", "q"] {
        for limit in 1..20 {
            let found = pair.both.list(prefix, None, limit).await.unwrap();
            let wanted = model.list(prefix, None, limit).await.unwrap();
            assert_eq!(found.objects, wanted.objects, "{limit} below {prefix:?}");
            assert_eq!(found.more, wanted.more, "{limit} below {prefix:?}");
        }
        for after in KINDS.into_iter().chain(more).map(key) {
            let found = list_after(&pair.both, prefix, Some(after.clone())).await.unwrap();
            let wanted = list_after(&model, prefix, Some(after)).await.unwrap();
            assert_eq!(found, wanted);
        }
    }
}

#[tokio::test]
async fn a_pair_can_arbitrate_where_its_store_cannot() {
    let pair = Pair::new();
    assert!(!probe(&*pair.store).await.unwrap().can_arbitrate());
    let found = probe(&pair.both).await.unwrap();
    assert!(found.can_arbitrate() && pair.both.arbitrated(), "{found:?}");
    assert!(names(&*pair.store).await.is_empty() && names(&*pair.arbiter).await.is_empty());
    pair.put("r/default/chain/point").await;
    let again = pair.both.put_new(&key("r/default/chain/point"), Bytes::new()).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn copies_that_fail_are_caught_up_with() {
    let pair = Pair::new();
    for name in ["format", "keys/old", "r/default/chain/first"] {
        pair.put(name).await;
    }
    let full = Rule::new(Effect::Fail(ErrorKind::Unavailable)).on(Operation::WRITES);
    pair.store.heal();
    pair.store.inject(full);
    pair.put("r/default/chain/second").await;
    pair.put("keys/new").await;
    pair.both.delete(&key("keys/old")).await.unwrap();
    pair.store.heal();
    assert_eq!(names(&*pair.store).await, ["format", "keys/old", "r/default/chain/first"]);

    let wanted = Repaired { copied: 2, removed: 1 };
    assert_eq!(pair.both.repair_mirror().await.unwrap(), wanted);
    assert_eq!(names(&*pair.store).await, names(&*pair.arbiter).await);
    assert_eq!(pair.both.repair_mirror().await.unwrap(), Repaired::default());
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_copied_all_the_same() {
    let pair = Pair::new();
    let policy = RetryPolicy { attempts: 2, ..RetryPolicy::default() };
    let retried = Arc::new(Retry::new(pair.arbiter.clone(), policy));
    let both = Arbiter::new(pair.store.clone(), retried);
    pair.arbiter.inject(Rule::new(Effect::FailAfter(ErrorKind::Unavailable)).once());
    let name = key("r/default/chain/point");
    let taken = both.put_new(&name, Bytes::from("ours")).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    assert_eq!(pair.store.get(&name, ByteRange::Full).await.unwrap(), "ours");
}

fn is_wrong_pair(outcome: Result<impl std::fmt::Debug, DestinationError>, words: &str) {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test]
async fn a_store_and_an_arbiter_that_do_not_belong_together_are_refused() {
    let (one, other) = (Pair::new(), Pair::new());
    one.put("format").await;
    one.put("keys/slot").await;
    other.both.put_new(&key("format"), Bytes::from("another")).await.unwrap();
    let mixed = Arbiter::new(one.store.clone(), other.arbiter.clone());
    is_wrong_pair(mixed.get(&key("format"), ByteRange::Full).await, "different repositories");
    is_wrong_pair(mixed.repair_mirror().await, "different repositories");

    // An arbiter that is empty: nothing is made, and nothing is removed.
    let lost = Arbiter::new(one.store.clone(), Arc::new(MemoryDestination::new()));
    is_wrong_pair(lost.head(&key("format")).await, "lost");
    is_wrong_pair(lost.repair_mirror().await, "lost");
    assert_eq!(names(&*one.store).await, ["format", "keys/slot"]);
    let nothing = Pair::new();
    is_wrong_pair(nothing.both.repair_mirror().await, "no repository");
}

#[tokio::test]
async fn the_arbiter_is_a_parameter_of_any_url() {
    let folder = tempfile::tempdir().unwrap();
    let create = OpenOptions { create: true, ..OpenOptions::default() };
    let at = folder.path().display();
    let url = format!("file://{at}/store?arbiter=file://{at}/arbiter");
    let opened = open(&url, &create).await.unwrap();
    assert!(opened.destination.arbitrated());
    assert_eq!(opened.destination.location(), url);
    opened.destination.put_new(&key("d/x"), Bytes::from("1")).await.unwrap();
    opened.destination.put_new(&key("s/x"), Bytes::from("2")).await.unwrap();
    assert!(folder.path().join("store/d/x").exists() && folder.path().join("arbiter/s/x").exists());
    // Both count in one place.
    assert_eq!(opened.counters.snapshot().put.requests, 2);
    for bad in ["arbiter=ftp://x", "arbiter=/x&arbiter=/y", "arbiter=file:///x%3Farbiter=/y"] {
        let error = open(&format!("file://{at}/store?{bad}"), &create).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{bad}: {error}");
    }
    let plain = open(&format!("file://{at}/store"), &create).await.unwrap();
    assert!(!plain.destination.arbitrated());
}
