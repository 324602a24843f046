//! The contract of [`Destination`] as checks that every implementation and wrapper runs.
//!
//! The checks panic with a message at the first broken promise; call [`run`] from a test.

mod locks;

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, StreamExt};

use crate::{ByteRange, Destination, ErrorKind, Key, MAX_PAGE, list_after, list_all};

pub use locks::run as run_locks;

/// Writers in a race for one key.
const RACERS: u8 = 8;

/// Runs every check, each on an empty destination that `fresh` makes.
///
/// # Panics
/// When a promise of the contract is broken.
pub async fn run<F, Fut>(fresh: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Arc<dyn Destination>>,
{
    put_new_refuses_a_taken_key(&*fresh().await).await;
    one_racer_wins(fresh().await).await;
    run_without_races(fresh).await;
}

/// Runs the checks that a store must pass on which an [arbiter](crate::wrap::Arbiter) decides
/// races: all but those of [`put_new`](Destination::put_new).
///
/// # Panics
/// When a promise of the contract is broken.
pub async fn run_without_races<F, Fut>(fresh: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Arc<dyn Destination>>,
{
    bodies_come_back(&*fresh().await).await;
    ranges_are_exact(&*fresh().await).await;
    absent_objects_are_not_found(&*fresh().await).await;
    put_replaces_atomically(fresh().await).await;
    deleted_objects_are_gone(&*fresh().await).await;
    listings_are_ordered(&*fresh().await).await;
    prefixes_select(&*fresh().await).await;
    pages_continue(&*fresh().await).await;
    long_listings_come_in_pages(&*fresh().await).await;
    parallel_puts_into_new_folders(&*fresh().await).await;
    many_are_deleted_together(&*fresh().await).await;
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

/// Bytes that differ at every offset that matters, the same at each call.
fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| (at.wrapping_mul(0x9E37_79B1) >> 13) as u8).collect()
}

async fn put(store: &dyn Destination, name: &str, body: impl Into<Bytes>) {
    store.put_new(&key(name), body.into()).await.unwrap_or_else(|e| panic!("put {name}: {e}"));
}

async fn whole(store: &dyn Destination, name: &str) -> Bytes {
    let got = store.get(&key(name), ByteRange::Full).await;
    got.unwrap_or_else(|e| panic!("get {name}: {e}"))
}

async fn kind_of<T: std::fmt::Debug>(call: impl Future<Output = crate::Result<T>>) -> ErrorKind {
    call.await.expect_err("a call that must fail").kind()
}

async fn bodies_come_back(store: &dyn Destination) {
    for length in [0, 1, 4096, 300_001, 9 << 20] {
        let name = format!("bodies/of-{length}");
        put(store, &name, pattern(length)).await;
        assert!(whole(store, &name).await == pattern(length), "{length} bytes changed");
        let meta = store.head(&key(&name)).await.expect("head");
        assert_eq!((meta.key, meta.size), (key(&name), length as u64));
    }
    let longest = format!("{}/{}", "k".repeat(127), "K".repeat(127));
    put(store, &longest, "at the limit").await;
    assert_eq!(whole(store, &longest).await, "at the limit");
}

async fn ranges_are_exact(store: &dyn Destination) {
    let body = pattern(100_000);
    put(store, "ranges/body", body.clone()).await;
    put(store, "ranges/empty", "").await;
    let at = key("ranges/body");
    let span = |offset, length| ByteRange::Span { offset, length };
    for (range, wanted) in [
        (span(0, 1), 0..1),
        (span(0, 100_000), 0..100_000),
        (span(1, 65_536), 1..65_537),
        (span(99_999, 1), 99_999..100_000),
        (span(99_000, 5_000), 99_000..100_000),
        (span(7, u64::MAX), 7..100_000),
        (ByteRange::Suffix(1), 99_999..100_000),
        (ByteRange::Suffix(4096), 95_904..100_000),
        (ByteRange::Suffix(100_000), 0..100_000),
        (ByteRange::Suffix(u64::MAX), 0..100_000),
        (ByteRange::Suffix(0), 0..0),
    ] {
        let got = store.get(&at, range).await.unwrap_or_else(|e| panic!("{range:?}: {e}"));
        assert!(got == body.slice(wanted), "{range:?} gave {} other bytes", got.len());
    }
    for range in [span(100_000, 1), span(100_001, 1), span(u64::MAX, u64::MAX), span(0, 0)] {
        assert_eq!(kind_of(store.get(&at, range)).await, ErrorKind::InvalidRange, "{range:?}");
    }
    let empty = key("ranges/empty");
    assert_eq!(kind_of(store.get(&empty, span(0, 1))).await, ErrorKind::InvalidRange);
    assert_eq!(store.get(&empty, ByteRange::Suffix(9)).await.expect("suffix of nothing"), "");
}

async fn absent_objects_are_not_found(store: &dyn Destination) {
    put(store, "absent/folder/object", "x").await;
    for name in ["absent/object", "no/such/folder", "absent/folder", "absent/folder/object/below"] {
        let name = key(name);
        let span = ByteRange::Span { offset: 0, length: 1 };
        for range in [ByteRange::Full, span, ByteRange::Suffix(1), ByteRange::Suffix(0)] {
            assert_eq!(kind_of(store.get(&name, range)).await, ErrorKind::NotFound, "{name}");
        }
        assert_eq!(kind_of(store.head(&name)).await, ErrorKind::NotFound, "{name}");
        store.delete(&name).await.unwrap_or_else(|e| panic!("delete absent {name}: {e}"));
    }
    assert_eq!(whole(store, "absent/folder/object").await, "x");
}

async fn put_new_refuses_a_taken_key(store: &dyn Destination) {
    put(store, "taken/key", "first").await;
    let taken = key("taken/key");
    for body in ["second", "first"] {
        let again = kind_of(store.put_new(&taken, Bytes::from(body))).await;
        assert_eq!(again, ErrorKind::AlreadyExists);
    }
    assert_eq!(whole(store, "taken/key").await, "first");
    store.delete(&taken).await.expect("delete");
    put(store, "taken/key", "third").await;
    assert_eq!(whole(store, "taken/key").await, "third");
}

async fn one_racer_wins(store: Arc<dyn Destination>) {
    for round in 0..4 {
        let name = key(&format!("race/round-{round}"));
        let racers = (0..RACERS).map(|racer| {
            let (store, name) = (Arc::clone(&store), name.clone());
            tokio::spawn(async move {
                let body = Bytes::from(vec![racer; 10_000]);
                store.put_new(&name, body).await.map(|()| racer)
            })
        });
        let mut winners = Vec::new();
        for outcome in join_all(racers).await {
            match outcome.expect("a racer's task") {
                Ok(racer) => winners.push(racer),
                Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}"),
            }
        }
        assert_eq!(winners.len(), 1, "winners of round {round}: {winners:?}");
        let stored = whole(&*store, name.as_str()).await;
        assert!(stored == vec![winners[0]; 10_000], "the loser's body is stored");
    }
}

async fn put_replaces_atomically(store: Arc<dyn Destination>) {
    let name = key("replaced/often");
    let body = |round: u8| Bytes::from(vec![round; 50_000 + usize::from(round) * 1000]);
    store.put(&name, body(0)).await.expect("put");
    let writer = {
        let (store, name) = (Arc::clone(&store), name.clone());
        tokio::spawn(async move {
            for round in 1..=20 {
                store.put(&name, body(round)).await.expect("put");
            }
        })
    };
    loop {
        let done = writer.is_finished();
        let seen = store.get(&name, ByteRange::Full).await.expect("get while it is replaced");
        let round = *seen.first().expect("a body");
        assert!(seen == body(round), "a reader saw parts of two bodies");
        if done {
            assert_eq!(round, 20, "the last body is not the one seen");
            break;
        }
    }
    writer.await.expect("the writer");
    assert_eq!(store.head(&name).await.expect("head").size, 70_000);
}

async fn deleted_objects_are_gone(store: &dyn Destination) {
    for name in ["gone/a", "gone/b"] {
        put(store, name, "x").await;
    }
    store.delete(&key("gone/a")).await.expect("delete");
    assert_eq!(kind_of(store.get(&key("gone/a"), ByteRange::Full)).await, ErrorKind::NotFound);
    assert_eq!(kind_of(store.head(&key("gone/a"))).await, ErrorKind::NotFound);
    assert_eq!(names(store, "gone/").await, ["gone/b"]);
    store.delete(&key("gone/a")).await.expect("delete again");
    store.delete(&key("gone/b")).await.expect("delete");
    assert!(names(store, "").await.is_empty(), "an emptied destination lists objects");
}

/// Keys in ascending order, chosen so that the order of a folder walk would differ.
const SORTED: [&str; 9] =
    ["A", "a-b", "a-b.c/d", "a.b", "a/b", "a/b-c", "a/c/d", "a0", "a_b/deep/er/key"];

async fn sorted(store: &dyn Destination) {
    for (at, name) in SORTED.iter().enumerate().rev() {
        put(store, name, pattern(at)).await;
    }
}

async fn names(store: &dyn Destination, prefix: &str) -> Vec<String> {
    let all = list_all(store, prefix).await.unwrap_or_else(|e| panic!("list {prefix}: {e}"));
    all.iter().map(|object| object.key.to_string()).collect()
}

async fn listings_are_ordered(store: &dyn Destination) {
    assert!(names(store, "").await.is_empty(), "a fresh destination lists objects");
    sorted(store).await;
    let all = list_all(store, "").await.expect("list");
    let found: Vec<_> = all.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(found, SORTED);
    let sizes: Vec<_> = all.iter().map(|object| object.size).collect();
    assert_eq!(sizes, (0..SORTED.len() as u64).collect::<Vec<_>>());
}

async fn prefixes_select(store: &dyn Destination) {
    sorted(store).await;
    for prefix in ["a", "a/", "a/b", "a-", "a-b.c/", "a_b/deep/e", "A", "b", "a/b/", "a0"] {
        let wanted: Vec<_> = SORTED.iter().filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(names(store, prefix).await.iter().collect::<Vec<_>>(), wanted, "{prefix:?}");
    }
    for never in ["/", "../", "a//", "a/../", ".", "a/.", " ", "\u{e9}", "a\0"] {
        assert!(names(store, never).await.is_empty(), "{never:?} selects something");
    }
}

async fn pages_continue(store: &dyn Destination) {
    sorted(store).await;
    for after in SORTED.into_iter().chain(["0", "a/", "a/bb", "a_", "zz", "a_b/deep/er/kez"]) {
        let Ok(after) = Key::new(after) else { continue };
        for prefix in ["", "a", "a/", "a_b/deep/"] {
            let found = list_after(store, prefix, Some(after.clone())).await.expect("list");
            let found: Vec<_> = found.iter().map(|object| object.key.as_str()).collect();
            let wanted = |name: &&str| name.starts_with(prefix) && *name > after.as_str();
            let wanted: Vec<_> = SORTED.into_iter().filter(wanted).collect();
            assert_eq!(found, wanted, "below {prefix:?} after {after}");
        }
    }
    let mut after: Option<Key> = None;
    for (at, name) in SORTED.iter().enumerate() {
        let page = store.list("", after.as_ref(), 1).await.expect("a page of one");
        assert_eq!(page.objects.len(), 1, "a page of one after {after:?}");
        assert_eq!(page.objects[0].key.as_str(), *name);
        assert_eq!(page.more, at + 1 < SORTED.len(), "whether more follows {name}");
        after = Some(page.objects[0].key.clone());
    }
    let page = store.list("a/", None, 2).await.expect("a page of two");
    assert_eq!((page.objects.len(), page.more), (2, true));
    assert!(!store.list("a/", None, 3).await.expect("a full page").more, "nothing follows");
}

async fn long_listings_come_in_pages(store: &dyn Destination) {
    let count = MAX_PAGE + 5;
    let puts = (0..count).map(|at| async move { put(store, &format!("many/{at:05}"), "").await });
    stream::iter(puts).buffer_unordered(16).collect::<Vec<()>>().await;
    let page = store.list("many/", None, usize::MAX).await.expect("list");
    assert!(page.objects.len() <= MAX_PAGE && page.more, "a page holds more than {MAX_PAGE}");
    let wanted: Vec<_> = (0..count).map(|at| format!("many/{at:05}")).collect();
    assert_eq!(names(store, "many/").await, wanted);
    let all: Vec<_> = wanted.iter().map(|name| key(name)).collect();
    store.delete_many(&all).await.expect("delete them all");
    assert!(names(store, "many/").await.is_empty(), "some were left");
}

async fn many_are_deleted_together(store: &dyn Destination) {
    for name in ["gone/a", "gone/b/c", "kept"] {
        put(store, name, "x").await;
    }
    store.delete_many(&[]).await.expect("delete nothing");
    let gone = ["gone/a", "gone/never", "gone/b/c", "gone/a"].map(key);
    store.delete_many(&gone).await.expect("delete, also what is not there");
    store.delete_many(&gone[..1]).await.expect("delete one that is gone");
    assert_eq!(names(store, "").await, ["kept"]);
}

async fn parallel_puts_into_new_folders(store: &dyn Destination) {
    let all: Vec<_> = (0..32).map(|at| format!("par/{}/{}/object-{at}", at % 4, at % 8)).collect();
    join_all(all.iter().map(|name| put(store, name, name.clone()))).await;
    for name in &all {
        assert_eq!(whole(store, name).await, *name);
    }
}
