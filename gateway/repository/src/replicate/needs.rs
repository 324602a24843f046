//! Which packs a point needs, by walking its block maps. This takes the key.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::listing::PackName;
use crate::error::Result;
use crate::format::FANOUT;
use crate::format::id::{PackId, PackKind};
use crate::format::page::{Entry, Page};
use crate::points::RestorePoint;
use crate::repository::Shared;

/// Numbers of the packs below a page and of its own, ascending.
type Below = Arc<[u32]>;

/// Walks points and remembers what it saw: most pages are shared between points.
///
/// Pages are remembered by their place, not by their digest: equal digests mean equal content,
/// which may lie in different packs.
#[derive(Debug, Default)]
pub(crate) struct Walker {
    names: Vec<PackName>,
    numbers: HashMap<PackName, u32>,
    pages: HashMap<(PackId, u16), Below>,
}

fn place(entry: &Entry) -> (PackId, u16) {
    (entry.location.pack, entry.location.slot)
}

impl Walker {
    /// All packs that a point needs.
    ///
    /// # Errors
    /// Damage in its pages; or the destination fails.
    pub(crate) async fn packs(
        &mut self,
        shared: &Arc<Shared>,
        point: &RestorePoint,
    ) -> Result<BTreeSet<PackName>> {
        let mut all: BTreeSet<u32> = BTreeSet::new();
        for record in &point.images {
            let image = shared.open_image(point, record)?;
            for top in &image.inner.directory {
                let entry = Entry { id: top.digest, location: top.location };
                let below = match self.pages.get(&place(&entry)) {
                    Some(below) => below.clone(),
                    None => self.level1(shared, &entry, record.block_size).await?,
                };
                all.extend(below.iter());
            }
        }
        Ok(all.into_iter().map(|number| self.names[number as usize]).collect())
    }

    async fn level1(
        &mut self,
        shared: &Arc<Shared>,
        entry: &Entry,
        block_size: u32,
    ) -> Result<Below> {
        let page = shared.pages(&[*entry], 1, block_size).await?.pop();
        let leaves: Vec<Entry> =
            page.iter().flat_map(|page| page.iter().map(|(_, leaf)| *leaf)).collect();
        let unseen: Vec<Entry> =
            leaves.iter().filter(|leaf| !self.pages.contains_key(&place(leaf))).copied().collect();
        for batch in unseen.chunks(FANOUT / 4) {
            let pages = shared.pages(batch, 0, block_size).await?;
            for (leaf, page) in batch.iter().zip(pages) {
                let below = self.below(leaf, &page);
                self.pages.insert(place(leaf), below);
            }
        }
        let mut all = BTreeSet::from([self.number((PackKind::Meta, entry.location.pack))]);
        for leaf in &leaves {
            all.extend(self.pages.get(&place(leaf)).iter().flat_map(|below| below.iter()));
        }
        let all: Below = all.into_iter().collect();
        self.pages.insert(place(entry), all.clone());
        Ok(all)
    }

    fn below(&mut self, leaf: &Entry, page: &Page) -> Below {
        let chunks = page.iter().map(|(_, chunk)| (PackKind::Data, chunk.location.pack));
        let names = chunks.chain([(PackKind::Meta, leaf.location.pack)]);
        let numbers: BTreeSet<u32> = names.map(|name| self.number(name)).collect();
        numbers.into_iter().collect()
    }

    fn number(&mut self, name: PackName) -> u32 {
        let Self { names, numbers, .. } = self;
        *numbers.entry(name).or_insert_with(|| {
            names.push(name);
            names.len() as u32 - 1
        })
    }
}
