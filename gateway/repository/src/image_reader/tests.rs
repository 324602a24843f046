//! How often a read goes through the caches.

use sluice_destination::Destination;
use sluice_destination::memory::MemoryDestination;
use sluice_destination::wrap::{Effect, Fault, Operation, Rule};

use super::*;
use crate::{Base, Clock, CommitInfo, InitOptions, KdfCost, SessionOptions, Settings, Unlock};

const BLOCK: usize = 64 << 10;

/// An image of two blocks, in a repository that was opened anew: nothing is cached.
async fn cold() -> ImageReader {
    cold_of(Arc::new(MemoryDestination::new())).await
}

async fn cold_of(destination: Arc<dyn Destination>) -> ImageReader {
    let (clock, kdf) = (Clock::system(), KdfCost::default());
    let options = InitOptions { unlock: Unlock::Open, recovery: false, kdf, lock: None };
    let settings = Settings { threads: 2, ..Settings::default() };
    let made =
        Repository::init(destination.clone(), clock.clone(), options, settings.clone()).await;
    let session = made.unwrap().0.begin("vm", &SessionOptions::default()).await.unwrap();
    let size = 2 * BLOCK as u64;
    let image = session.image("disk", "", size, BLOCK as u32, Base::Empty, true).unwrap();
    let mut page = Page::empty(0);
    let content = [vec![1; BLOCK], vec![2; BLOCK]].concat();
    for (at, entry) in image.store(&content, 0, None, None).unwrap().iter().enumerate() {
        page.set(at, *entry);
    }
    image.set_leaf(0, page).await.unwrap();
    let record = image.finish().await.unwrap();
    drop(image);
    let point = session.commit(vec![record], CommitInfo::default()).await.unwrap();
    let fresh = Repository::open(destination, clock, Unlock::Open, settings).await.unwrap();
    fresh.image(&point, None).unwrap()
}

/// Looks for pages and chunks that `work` makes.
async fn looks(image: &ImageReader, work: impl AsyncFnOnce()) -> [u64; 2] {
    let before = image.inner.shared.caches.looks();
    work().await;
    let after = image.inner.shared.caches.looks();
    [after[0] - before[0], after[1] - before[1]]
}

#[tokio::test]
async fn a_short_read_of_a_cold_block_goes_through_the_caches_once() {
    let image = cold().await;
    let mut buf = [0; 4096];
    // Brings the pages, and the first block.
    image.read_at(0, &mut buf).await.unwrap();
    let second = BLOCK as u64 + 512;
    // As servers do: at hand, or read. Two pages; the chunk once more where gets under way are.
    let made = looks(&image, async || {
        let mut buf = [0; 4096];
        assert!(!image.read_cached(second, &mut buf));
        image.read_at(second, &mut buf).await.unwrap();
        assert_eq!(buf, [2; 4096]);
    });
    assert_eq!(made.await, [2, 2]);
    let made = looks(&image, async || {
        let mut buf = [0; 4096];
        assert!(image.read_cached(second, &mut buf));
        assert_eq!(buf, [2; 4096]);
    });
    assert_eq!(made.await, [2, 1]);
}

#[tokio::test]
async fn what_another_look_found_does_not_answer_for_this_one() {
    let image = cold().await;
    let mut buf = [0; 100];
    image.inner.entries(0..2).await.unwrap();
    assert!(!image.read_cached(0, &mut buf));
    image.read_at(BLOCK as u64, &mut buf).await.unwrap();
    assert_eq!(buf, [2; 100]);
    let mut both = [0; 100];
    image.read_at(BLOCK as u64 - 50, &mut both).await.unwrap();
    assert_eq!((&both[..50], &both[50..]), (&[1; 50][..], &[2; 50][..]));
    image.read_at(0, &mut buf).await.unwrap();
    assert_eq!(buf, [1; 100]);
}

#[tokio::test]
async fn who_gets_a_block_and_goes_away_takes_it_from_nobody() {
    let destination = Fault::new(Arc::new(MemoryDestination::new()));
    let image = cold_of(destination.clone()).await;
    // Brings the pages, and the first block.
    image.read_at(0, &mut [0; 100]).await.unwrap();
    let under_way = || image.inner.shared.flights.len();
    for others in [0, 1] {
        destination.inject(Rule::new(Effect::Hold).on(&[Operation::Get]));
        let second = BLOCK as u64;
        let mut buf = [0; 100];
        let mut gone = Box::pin(image.read_at(second, &mut buf));
        assert!(futures::poll!(&mut gone).is_pending());
        assert_eq!(under_way(), 1);
        let other = image.clone();
        let other = (others > 0).then(|| {
            tokio::spawn(async move {
                let mut buf = [0; 100];
                other.read_at(second, &mut buf).await.map(|()| buf)
            })
        });
        tokio::task::yield_now().await;
        drop(gone);
        destination.heal();
        if let Some(other) = other {
            assert_eq!(other.await.unwrap().unwrap(), [2; 100]);
        }
        while under_way() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(image.read_cached(second, &mut buf), "it landed");
        image.inner.shared.caches.forget_chunks();
    }
}
