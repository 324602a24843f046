//! Objects of any size under names of records: nobody takes them into memory.

use std::sync::Arc;

use bytes::Bytes;
use sluice_destination::wrap::Count;
use sluice_destination::{Destination, Key, list_all};
use sluice_repository::ErrorKind;

use crate::collect::{blocks, save};
use crate::support::*;

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn no_more_of_an_object_is_read_than_a_record_can_have() {
    let (place, repository) = new_repository().await;
    let point = save(&repository, "vm", &blocks(&[1])).await;
    let committed = list_all(&*place, "r/").await.unwrap().remove(0).key;
    let huge = Bytes::from(vec![0; 200 << 20]);
    let other = committed.as_str().replace(&point.id.to_string(), &"0".repeat(26));
    place.put(&Key::new(other.clone()).unwrap(), huge.clone()).await.unwrap();
    let hold = committed.as_str().replacen("r/", "h/", 1);

    let counted = Arc::new(Count::new(place.clone()));
    let counters = counted.counters();
    let looked: Arc<dyn Destination> = counted;
    let repository = open(looked).await;
    let before = counters.snapshot().get.bytes;
    let listing = repository.list(None).await.unwrap();
    let read = counters.snapshot().get.bytes - before;
    assert_eq!((listing.points.len(), listing.damaged.len()), (1, 1));
    assert_eq!(listing.damaged[0].key.as_str(), other);
    assert!(read < 66 * MIB, "{read}");

    place.put(&Key::new(hold).unwrap(), huge.clone()).await.unwrap();
    let before = counters.snapshot().get.bytes;
    let kept = repository.forget(&point, "test", "test").await.unwrap_err();
    assert_eq!(kept.kind(), ErrorKind::Protected);
    let read = counters.snapshot().get.bytes - before;
    assert!(read <= MIB, "{read}");

    for name in ["format", "s/00000000000000000000"] {
        place.put(&Key::new(name).unwrap(), huge.clone()).await.unwrap();
    }
    let before = counters.snapshot().get.bytes;
    assert!(sluice_repository::Repository::peek(repository.destination().as_ref()).await.is_err());
    let read = counters.snapshot().get.bytes - before;
    assert!(read <= MIB, "{read}");
    let before = counters.snapshot().get.bytes;
    repository.traces().await.unwrap();
    let read = counters.snapshot().get.bytes - before;
    // Of the session and of the protection.
    assert!(read < 2 * 66 * MIB, "{read}");
}
