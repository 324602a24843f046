//! What holds where objects can be locked.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{key, kind_of, put, whole};
use crate::{Destination, ErrorKind, Lock, LockMode};

/// Runs the checks of object lock, on an empty destination that `fresh` makes. What is locked
/// stays locked for two minutes at most.
///
/// # Panics
/// When a promise of the contract is broken.
pub async fn run<F, Fut>(fresh: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Arc<dyn Destination>>,
{
    locked_objects_tell_their_lock(&*fresh().await).await;
    locks_grow_and_never_shrink(&*fresh().await).await;
    locked_objects_are_kept(&*fresh().await).await;
}

/// A lock that ends so many seconds from now.
fn lock(seconds: u64) -> Lock {
    #[expect(clippy::disallowed_methods, reason = "a lock ends at a time of the real clock")]
    let now = SystemTime::now();
    let until = now + Duration::from_secs(seconds);
    Lock { mode: LockMode::Governance, until }.whole_seconds()
}

async fn locked_objects_tell_their_lock(store: &dyn Destination) {
    let (short, name) = (lock(3), key("locked/one"));
    put(store, "locked/plain", "x").await;
    assert_eq!(store.lock_of(&key("locked/plain")).await.expect("no lock"), None);
    store.put_locked(&name, Bytes::from("first"), true, &short).await.expect("put locked");
    assert_eq!(whole(store, name.as_str()).await, "first");
    assert_eq!(store.lock_of(&name).await.expect("its lock"), Some(short));
    let again = store.put_locked(&name, Bytes::from("second"), true, &short);
    assert_eq!(kind_of(again).await, ErrorKind::AlreadyExists);
    assert_eq!(whole(store, name.as_str()).await, "first");
    let absent = key("locked/absent");
    assert_eq!(kind_of(store.lock_of(&absent)).await, ErrorKind::NotFound);
    assert_eq!(kind_of(store.extend_lock(&absent, &short)).await, ErrorKind::NotFound);
    let replaced = key("locked/plain");
    store.put_locked(&replaced, Bytes::from("y"), false, &short).await.expect("replace");
    assert_eq!(store.lock_of(&replaced).await.expect("its lock"), Some(short));
}

async fn locks_grow_and_never_shrink(store: &dyn Destination) {
    let (short, long, name) = (lock(30), lock(90), key("grown/one"));
    put(store, name.as_str(), "x").await;
    store.extend_lock(&name, &short).await.expect("lock what was not");
    assert_eq!(store.lock_of(&name).await.expect("a lock"), Some(short));
    store.extend_lock(&name, &long).await.expect("lock for longer");
    assert_eq!(store.lock_of(&name).await.expect("a lock"), Some(long));
    store.extend_lock(&name, &short).await.expect("ask for less");
    assert_eq!(store.lock_of(&name).await.expect("a lock"), Some(long));
}

async fn locked_objects_are_kept(store: &dyn Destination) {
    assert!(store.keeps_locks(&key("kept/one"), &lock(4)).await.expect("try a lock"));
    assert_eq!(kind_of(store.head(&key("kept/one"))).await, ErrorKind::NotFound);
}
