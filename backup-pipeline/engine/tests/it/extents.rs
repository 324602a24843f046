//! How often a source is asked where its data is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use sluice_block::{BlockRead, Extent, MemoryDisk};
use sluice_engine::Change;

use crate::support::*;

/// A disk that counts the extents it has told.
struct Counted {
    disk: MemoryDisk,
    told: AtomicUsize,
}

#[async_trait]
impl BlockRead for Counted {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> sluice_block::Result<()> {
        self.disk.read_at(offset, buf).await
    }

    async fn extents(&self, offset: u64, length: u64) -> sluice_block::Result<Vec<Extent>> {
        let extents = self.disk.extents(offset, length).await?;
        self.told.fetch_add(extents.len(), Ordering::Relaxed);
        Ok(extents)
    }
}

async fn told(repository: &sluice_repository::Repository, bytes: &[u8]) -> usize {
    let counted = Arc::new(Counted { disk: MemoryDisk::from_bytes(bytes), told: 0.into() });
    let images = vec![device_image("disk", counted.clone(), Change::Regions)];
    let point = run(repository, images).await.unwrap().point;
    assert!(read_all(&repository.image(&point, None).unwrap()).await == bytes);
    counted.told.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_extent_is_asked_for_about_once() {
    let (_, repository) = new_repository().await;
    // Four leaves in which every second block is a hole.
    let mut bytes = noise(1, 64 << 20);
    for hole in bytes.chunks_exact_mut(BLOCK as usize).skip(1).step_by(2) {
        hole.fill(0);
    }
    let extents = bytes.len() / BLOCK as usize;
    let (full, again) = (told(&repository, &bytes).await, told(&repository, &bytes).await);
    for told in [full, again] {
        assert!((extents..extents + 16).contains(&told), "{told} of {extents}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_of_many_leaves_is_gone_through_in_growing_steps() {
    let (_, repository) = new_repository().await;
    // Sixteen leaves with a block in the middle, and one at the end that is not whole.
    let mut bytes = vec![0; (256 << 20) - 1000];
    bytes[(130 << 20) + 5] = 1;
    let last = bytes.len() - 1;
    bytes[last] = 1;
    let told = told(&repository, &bytes).await;
    assert!(told < 64, "{told}");
}
