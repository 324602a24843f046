use std::sync::Arc;

use sluice_destination::filesystem::FilesystemDestination;
use sluice_destination::memory::MemoryDestination;
use sluice_destination::probe::probe;
use sluice_destination::wrap::{Effect, Fault, Operation, Rule};
use sluice_destination::{Capabilities, ErrorKind, list_all};

/// What the probe finds behind a rule; it must leave nothing behind.
async fn found(rule: Rule) -> Capabilities {
    let store = Arc::new(MemoryDestination::new());
    let fault = Fault::new(store.clone());
    fault.inject(rule);
    let found = probe(&*fault).await.unwrap();
    assert!(store.is_empty(), "the probe left objects behind: {store:?}");
    assert!(fault.injected() > 0);
    found
}

#[tokio::test]
async fn memory_is_fit() {
    let store = MemoryDestination::new();
    let found = probe(&store).await.unwrap();
    assert!(found.can_arbitrate() && store.is_empty(), "{found:?}");
    assert_eq!((found.clock_offset_seconds, found.checksum_verified), (None, false));
    assert!(!found.object_lock);
    let store = MemoryDestination::with_locks();
    let found = probe(&store).await.unwrap();
    assert!(found.object_lock && store.is_empty(), "{found:?}");
}

#[tokio::test]
async fn the_file_system_is_fit_and_tells_its_clock() {
    let folder = tempfile::tempdir().unwrap();
    let store = FilesystemDestination::open(folder.path()).await.unwrap();
    let found = probe(&store).await.unwrap();
    assert!(found.can_arbitrate(), "{found:?}");
    assert!(found.clock_offset_seconds.is_some_and(|offset| offset.abs() < 3600));
    assert!(list_all(&store, "").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_store_that_ignores_conditions_cannot_arbitrate() {
    let found = found(Rule::new(Effect::IgnoreCondition)).await;
    assert!(!found.put_if_absent && !found.can_arbitrate());
    assert!(found.read_after_write && found.list_after_write && found.ranged_get);
}

#[tokio::test]
async fn a_store_whose_condition_holds_except_in_a_race_cannot_arbitrate() {
    // The second create is refused; of the eight that follow, two pass.
    let rule = Rule::new(Effect::IgnoreCondition).on(&[Operation::PutNew]).skip(3).once();
    let found = found(rule).await;
    assert!(!found.put_if_absent && !found.can_arbitrate(), "{found:?}");
}

#[tokio::test]
async fn a_store_that_refuses_conditions_cannot_arbitrate() {
    let refuse = Rule::new(Effect::Fail(ErrorKind::Unfit)).on(&[Operation::PutNew]).skip(1);
    assert!(!found(refuse).await.put_if_absent);
}

#[tokio::test]
async fn a_store_whose_listings_lag_cannot_arbitrate() {
    let found = found(Rule::new(Effect::ListNothing)).await;
    assert!(!found.list_after_write && !found.can_arbitrate() && found.put_if_absent);
}

#[tokio::test]
async fn a_store_that_returns_other_bytes_cannot_arbitrate() {
    let flipped = found(Rule::new(Effect::FlipBit(7)).on(&[Operation::Get])).await;
    assert!(!flipped.read_after_write && !flipped.can_arbitrate());
    let short = found(Rule::new(Effect::Truncate(10)).on(&[Operation::Get])).await;
    assert!(!short.ranged_get && !short.can_arbitrate());
}

#[tokio::test]
async fn a_store_that_cannot_be_written_is_an_error() {
    let store = Arc::new(MemoryDestination::new());
    let fault = Fault::new(store.clone());
    let full = Effect::Fail(ErrorKind::NoSpace);
    fault.inject(Rule::new(full).on(Operation::PUTS).skip(5));
    let error = probe(&*fault).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(store.is_empty(), "a failed probe left objects behind");
}
