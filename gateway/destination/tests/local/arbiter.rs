//! A store that cannot decide races, beside an arbiter that can.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sluice_destination::memory::MemoryDestination;
use sluice_destination::probe::probe;
use sluice_destination::url::{OpenOptions, open};
use sluice_destination::wrap::{
    Arbiter, Effect, Fault, Operation, Repaired, Retry, RetryPolicy, Rule,
};
use sluice_destination::{
    ByteRange, Destination, DestinationError, ErrorKind, Key, Lock, LockMode, conformance,
    list_after, list_all,
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
const KINDS: [&str; 11] = [
    "d/0a/pack.0",
    "format",
    "g/run",
    "h/head",
    "keys/slot",
    "lock",
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
    let copied = ["format", "h/head", "keys/slot", "lock", "r/default/chain/point"];
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

fn descriptor(id: &str, reader: u16) -> Bytes {
    format!(r#"{{"magic": "sluice repository", "id": "{id}", "min_reader": {reader}}}"#).into()
}

#[tokio::test]
async fn a_copy_of_format_that_is_behind_stops_nobody_and_is_caught_up_with() {
    let pair = Pair::new();
    let name = key("format");
    pair.both.put_new(&name, descriptor("aa", 1)).await.unwrap();
    pair.store.heal();
    pair.store.inject(Rule::new(Effect::Fail(ErrorKind::Unavailable)).below("format").once());
    pair.both.put(&name, descriptor("aa", 2)).await.unwrap();
    for range in [ByteRange::Full, ByteRange::Span { offset: 0, length: 1 << 16 }] {
        assert_eq!(pair.store.get(&name, range).await.unwrap(), descriptor("aa", 1));
        assert_eq!(pair.both.get(&name, range).await.unwrap(), descriptor("aa", 2));
    }
    let wanted = Repaired { copied: 1, removed: 0 };
    assert_eq!(pair.both.repair_mirror().await.unwrap(), wanted);
    assert_eq!(pair.store.get(&name, ByteRange::Full).await.unwrap(), descriptor("aa", 2));
    // Of another repository, however alike.
    pair.store.put(&name, descriptor("ab", 2)).await.unwrap();
    for range in [ByteRange::Full, ByteRange::Span { offset: 0, length: 1 << 16 }] {
        is_wrong_pair(pair.both.get(&name, range).await, "different repositories");
    }
}

#[tokio::test]
async fn what_is_decided_while_copies_are_looked_at_keeps_its_copy() {
    for at_store in [true, false] {
        let pair = Arc::new(Pair::new());
        pair.put("format").await;
        pair.put("r/default/chain/first").await;
        let slow = if at_store { &pair.store } else { &pair.arbiter };
        slow.heal();
        slow.inject(Rule::new(Effect::Hold).on(&[Operation::List]).below("r/"));
        let before = slow.injected();
        let repairing = pair.clone();
        let repair = tokio::spawn(async move { repairing.both.repair_mirror().await });
        while slow.injected() == before {
            tokio::task::yield_now().await;
        }
        pair.put("r/default/chain/second").await;
        pair.both.delete(&key("r/default/chain/first")).await.unwrap();
        slow.heal();
        repair.await.unwrap().unwrap();
        let left = ["format", "r/default/chain/second"];
        assert_eq!(names(&*pair.store).await, left, "slow store: {at_store}");
    }
}

#[tokio::test]
async fn a_copy_of_the_same_size_that_is_not_the_last_is_found() {
    let pair = Pair::new();
    pair.put("format").await;
    for name in ["h/default/chain/point", "lock", "keys/slot"] {
        pair.both.put(&key(name), Bytes::from("aaaa")).await.unwrap();
    }
    pair.store.heal();
    pair.store.inject(Rule::new(Effect::Fail(ErrorKind::Unavailable)).on(Operation::WRITES));
    for name in ["h/default/chain/point", "lock", "keys/slot"] {
        pair.both.put(&key(name), Bytes::from("bbbb")).await.unwrap();
    }
    pair.store.heal();
    let wanted = Repaired { copied: 3, removed: 0 };
    assert_eq!(pair.both.repair_mirror().await.unwrap(), wanted);
    for name in ["h/default/chain/point", "lock", "keys/slot"] {
        assert_eq!(pair.store.get(&key(name), ByteRange::Full).await.unwrap(), "bbbb");
    }
    assert_eq!(pair.both.repair_mirror().await.unwrap(), Repaired::default());
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

/// A pair whose store locks objects and whose arbiter does not.
fn locking_pair() -> (Arc<MemoryDestination>, Arc<MemoryDestination>, Arbiter) {
    let store = Arc::new(MemoryDestination::with_locks());
    let arbiter = Arc::new(MemoryDestination::new());
    (store.clone(), arbiter.clone(), Arbiter::new(store, arbiter))
}

fn lock_for(seconds: u64) -> Lock {
    #[expect(clippy::disallowed_methods, reason = "a lock ends at a time of the real clock")]
    let now = SystemTime::now();
    let until = now + Duration::from_secs(seconds);
    Lock { mode: LockMode::Governance, until }.whole_seconds()
}

#[tokio::test]
async fn locks_count_on_the_store_and_the_arbiter_needs_none() {
    let (store, arbiter, both) = locking_pair();
    assert!(probe(&both).await.unwrap().object_lock);
    let (short, long) = (lock_for(60), lock_for(600));
    for name in ["d/0a/pack.0", "r/default/chain/point"] {
        let name = key(name);
        let body = Bytes::from_static(b"body");
        both.put_locked(&name, body.clone(), true, &short).await.unwrap();
        let again = both.put_locked(&name, body, true, &short).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists, "{name}");
        both.extend_lock(&name, &long).await.unwrap();
        assert_eq!(both.lock_of(&name).await.unwrap(), Some(long), "{name}");
        assert_eq!(store.delete(&name).await.unwrap_err().kind(), ErrorKind::AccessDenied);
    }
    // The arbiter is lost with all that decided: the copy of the manifest is still there.
    arbiter.delete(&key("r/default/chain/point")).await.unwrap();
    assert!(store.get(&key("r/default/chain/point"), ByteRange::Full).await.is_ok());
    let absent = key("r/default/chain/absent");
    assert_eq!(both.lock_of(&absent).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_copy_that_is_missing_has_no_lock_until_it_is_given_one() {
    let (store, arbiter, both) = locking_pair();
    let (name, lock) = (key("r/default/chain/point"), lock_for(60));
    arbiter.put(&name, Bytes::from_static(b"body")).await.unwrap();
    assert_eq!(both.lock_of(&name).await.unwrap(), None);
    both.extend_lock(&name, &lock).await.unwrap();
    assert_eq!(store.lock_of(&name).await.unwrap(), Some(lock));
}
