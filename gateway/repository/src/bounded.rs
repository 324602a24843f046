//! Reading what is small: never more than one of its kind can have.
//!
//! Whoever may add objects to the destination gives them any size, and what is read must be in
//! memory before the seal tells that it is none of ours. So reads have a bound. What is longer
//! comes cut, and is damaged to whoever parses it: every parser here checks that nothing is
//! missing.
//!
//! Most records have a few hundred bytes. Those with more than a mebibyte are read with a second
//! request, and only [`LARGE`] of them at a time in the whole process, however many are wanted
//! side by side.

use bytes::Bytes;
use sluice_destination::{ByteRange, Destination, ErrorKind, Key, Result};
use tokio::sync::Semaphore;

use crate::format::record::MAX_RECORD;

/// The descriptor, key slots, pins, tombstones, protections and the lock are smaller than this:
/// the longest text in them is one that somebody typed.
pub(crate) const MAX_SMALL: u64 = 1 << 20;

/// Records of up to 64 MiB read at the same time: 256 MiB.
const LARGE: usize = 4;

static LARGE_READS: Semaphore = Semaphore::const_new(LARGE);

/// The first bytes of an object, at most so many.
async fn get_first(destination: &dyn Destination, key: &Key, most: u64) -> Result<Bytes> {
    match destination.get(key, ByteRange::Span { offset: 0, length: most }).await {
        // There is no first byte of an empty object.
        Err(error) if error.kind() == ErrorKind::InvalidRange => Ok(Bytes::new()),
        other => other,
    }
}

/// An object that is small, or its beginning.
pub(crate) async fn get_small(destination: &dyn Destination, key: &Key) -> Result<Bytes> {
    get_first(destination, key, MAX_SMALL).await
}

/// A record, or the beginning of what is too long for one. To be parsed and let go before others
/// are waited for.
pub(crate) async fn get_record(destination: &dyn Destination, key: &Key) -> Result<Bytes> {
    let first = get_small(destination, key).await?;
    if (first.len() as u64) < MAX_SMALL {
        return Ok(first);
    }
    drop(first);
    get_large(destination, key).await
}

async fn get_large(destination: &dyn Destination, key: &Key) -> Result<Bytes> {
    let _turn = LARGE_READS.acquire().await;
    get_first(destination, key, MAX_RECORD as u64).await
}

/// Whether an object is there and has exactly these bytes.
pub(crate) async fn is_exactly(
    destination: &dyn Destination,
    key: &Key,
    bytes: &[u8],
) -> Result<bool> {
    Ok(get_first(destination, key, bytes.len() as u64 + 1).await? == bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sluice_destination::memory::MemoryDestination;
    use sluice_destination::wrap::{Effect, Fault, Operation, Rule};

    use super::*;

    #[tokio::test]
    async fn what_is_read_is_whole_up_to_its_bound() {
        let place = MemoryDestination::new();
        let (small, max) = (MAX_SMALL as usize, MAX_RECORD);
        for (length, as_small, as_record) in [
            (0, 0, 0),
            (1, 1, 1),
            (small - 1, small - 1, small - 1),
            (small, small, small),
            (small + 1, small, small + 1),
            (max - 1, small, max - 1),
            (max + 5, small, max),
        ] {
            let key = Key::new("r/x").unwrap();
            let body = Bytes::from(vec![7; length]);
            place.put(&key, body.clone()).await.unwrap();
            assert_eq!(get_small(&place, &key).await.unwrap().len(), as_small, "{length}");
            assert_eq!(get_record(&place, &key).await.unwrap().len(), as_record, "{length}");
            assert!(is_exactly(&place, &key, &body).await.unwrap());
            assert!(!is_exactly(&place, &key, &[&body[..], b"7"].concat()).await.unwrap());
            assert!(length == 0 || !is_exactly(&place, &key, &body[1..]).await.unwrap());
        }
        let missing = get_record(&place, &Key::new("r/y").unwrap()).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn only_a_few_large_ones_are_read_side_by_side() {
        let place = Fault::new(Arc::new(MemoryDestination::new()));
        let body = Bytes::from(vec![0; MAX_SMALL as usize]);
        for number in 0..16 {
            place.put(&Key::new(format!("r/{number}")).unwrap(), body.clone()).await.unwrap();
        }
        place.inject(Rule::new(Effect::Hold).on(&[Operation::Get]));
        let read = |number| {
            let place = place.clone();
            tokio::spawn(async move {
                let key = Key::new(format!("r/{number}")).unwrap();
                get_large(&*place, &key).await.unwrap().len()
            })
        };
        let reads: Vec<_> = (0..16).map(read).collect();
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(place.injected(), LARGE as u64);
        place.heal();
        for read in reads {
            assert_eq!(read.await.unwrap(), body.len());
        }
    }
}
