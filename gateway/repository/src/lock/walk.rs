//! Which packs the images of a point name.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Locker;
use crate::error::Result;
use crate::format::id::PackKind;
use crate::format::manifest::ImageRecord;
use crate::format::page::Entry;
use crate::repository::{Shared, parse_error};

/// Leaves read together.
const BATCH: usize = 64;

impl Locker {
    /// Numbers of the packs that these images name. Leaves that were met before are not read.
    ///
    /// # Errors
    /// A page cannot be read: what it names is not known, and so cannot be locked.
    pub(super) async fn packs_of(
        &self,
        shared: &Arc<Shared>,
        images: &[ImageRecord],
    ) -> Result<BTreeSet<u32>> {
        let mut named = BTreeSet::new();
        for image in images {
            let directory = image
                .open_directory(&shared.keys)
                .map_err(|error| parse_error(format_args!("image {}", image.name), error))?;
            for top in directory {
                let top = Entry { id: top.digest, location: top.location };
                named.insert(self.number(PackKind::Meta, &top));
                for page in shared.pages(&[top], 1, image.block_size).await? {
                    let leaves: Vec<Entry> = page.iter().map(|(_, leaf)| *leaf).collect();
                    self.leaves(shared, &leaves, image.block_size, &mut named).await?;
                }
            }
        }
        Ok(named)
    }

    fn number(&self, kind: PackKind, entry: &Entry) -> u32 {
        self.seen.lock().number(kind, entry.location.pack)
    }

    async fn leaves(
        &self,
        shared: &Arc<Shared>,
        leaves: &[Entry],
        block_size: u32,
        named: &mut BTreeSet<u32>,
    ) -> Result<()> {
        let today = self.today(shared);
        let mut unknown = Vec::new();
        {
            let mut seen = self.seen.lock();
            for leaf in leaves {
                named.insert(seen.number(PackKind::Meta, leaf.location.pack));
                match seen.leaf((leaf.location.pack, leaf.location.slot), today) {
                    Some(packs) => named.extend(packs),
                    None => unknown.push(*leaf),
                }
            }
        }
        for batch in unknown.chunks(BATCH) {
            let pages = shared.pages(batch, 0, block_size).await?;
            let mut seen = self.seen.lock();
            for (leaf, page) in batch.iter().zip(pages) {
                let packs: BTreeSet<u32> = (page.iter())
                    .map(|(_, chunk)| seen.number(PackKind::Data, chunk.location.pack))
                    .collect();
                named.extend(&packs);
                let place = (leaf.location.pack, leaf.location.slot);
                seen.set_leaf(place, packs.into_iter().collect(), today);
            }
        }
        Ok(())
    }
}
