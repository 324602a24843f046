//! The second walk, when there is damage: which points and which of their bytes need it.
//!
//! Pages are again read once each; of a page below which there is no damage one bit is kept, of
//! another the blocks that are touched.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{ErrorKind, Result};
use crate::format::FANOUT;
use crate::format::id::{PackId, PackKind, pack_key};
use crate::format::pack::SlotEntry;
use crate::format::page::{Entry, Page};
use crate::points::RestorePoint;
use crate::repository::Shared;
use crate::verify::flaw::{BadPlaces, Damage, NOT_IN_TABLE, Place, touch};
use crate::verify::references::{PackName, SlotSet, agrees};

/// Leaves read together.
const TOGETHER: usize = FANOUT / 4;

/// Blocks below a page that need something damaged: the first one, how many, and the flaw.
type Touches = Vec<(u32, u32, u32)>;

/// Finds what is touched by damage.
pub(super) struct Tracing {
    shared: Arc<Shared>,
    pub(super) damage: Vec<Damage>,
    places: BadPlaces,
    /// Tables of packs that lack something that is named.
    tables: HashMap<PackName, Vec<SlotEntry>>,
    clean: SlotSet,
    touched: HashMap<(PackId, u16), Arc<Touches>>,
}

impl Tracing {
    pub(super) fn new(
        shared: Arc<Shared>,
        damage: Vec<Damage>,
        tables: HashMap<PackName, Vec<SlotEntry>>,
    ) -> Self {
        let places = BadPlaces::of(&damage);
        let (clean, touched) = (SlotSet::default(), HashMap::new());
        Self { shared, damage, places, tables, clean, touched }
    }

    /// Notes what of a point is touched.
    pub(super) async fn point(&mut self, point: &RestorePoint) -> Result<()> {
        let name = point.to_string();
        for record in &point.images {
            let Ok(image) = self.shared.open_image(point, record) else { continue };
            for top in &image.inner.directory {
                let entry = Entry { id: top.digest, location: top.location };
                let touches = self.top(&entry, record.block_size).await?;
                let base = u64::from(top.index) * (FANOUT * FANOUT) as u64;
                let size = u64::from(record.block_size);
                for (first, blocks, flaw) in touches.iter() {
                    let start = (base + u64::from(*first)) * size;
                    let end = start + u64::from(*blocks) * size;
                    let range = start.min(record.size)..end.min(record.size);
                    touch(&mut self.damage[*flaw as usize], &name, &record.name, range);
                }
            }
        }
        Ok(())
    }

    async fn top(&mut self, top: &Entry, block_size: u32) -> Result<Arc<Touches>> {
        if let Some(known) = self.known(top) {
            return Ok(known);
        }
        let mut touches = Touches::new();
        self.reference(PackKind::Meta, top, 0, (FANOUT * FANOUT) as u32, &mut touches);
        if let Some(page) = self.page(top, 1, block_size).await? {
            let leaves: Vec<(usize, Entry)> = page.iter().map(|(at, e)| (at, *e)).collect();
            for batch in leaves.chunks(TOGETHER) {
                // Into the cache, with few gets; what fails then fails again one by one.
                let entries: Vec<Entry> = batch.iter().map(|(_, leaf)| *leaf).collect();
                drop(self.shared.pages(&entries, 0, block_size).await);
                for (at, leaf) in batch {
                    let first = (at * FANOUT) as u32;
                    let below = self.leaf(leaf, block_size).await?;
                    touches.extend(below.iter().map(|(from, n, flaw)| (first + from, *n, *flaw)));
                }
            }
        }
        Ok(self.keep(top, touches))
    }

    async fn leaf(&mut self, leaf: &Entry, block_size: u32) -> Result<Arc<Touches>> {
        if let Some(known) = self.known(leaf) {
            return Ok(known);
        }
        let mut touches = Touches::new();
        self.reference(PackKind::Meta, leaf, 0, FANOUT as u32, &mut touches);
        if let Some(page) = self.page(leaf, 0, block_size).await? {
            for (at, chunk) in page.iter() {
                self.reference(PackKind::Data, chunk, at as u32, 1, &mut touches);
            }
        }
        Ok(self.keep(leaf, touches))
    }

    fn known(&mut self, page: &Entry) -> Option<Arc<Touches>> {
        let (pack, slot) = (page.location.pack, page.location.slot);
        if let Some(touches) = self.touched.get(&(pack, slot)) {
            return Some(touches.clone());
        }
        (!self.clean.insert((PackKind::Meta, pack), slot)).then(Arc::default)
    }

    fn keep(&mut self, page: &Entry, touches: Touches) -> Arc<Touches> {
        let touches = Arc::new(touches);
        if !touches.is_empty() {
            let place = (page.location.pack, page.location.slot);
            self.touched.insert(place, touches.clone());
        }
        touches
    }

    /// Notes the flaws that a reference meets.
    fn reference(
        &mut self,
        kind: PackKind,
        to: &Entry,
        first: u32,
        blocks: u32,
        out: &mut Touches,
    ) {
        let (pack, slot) = (to.location.pack, to.location.slot);
        if let Some(table) = self.tables.get(&(kind, pack))
            && !agrees(table.get(usize::from(slot)), to)
        {
            self.misfit(Place { kind, pack, slot: Some(slot) });
        }
        out.extend(self.places.at((kind, pack), slot).map(|flaw| (first, blocks, flaw)));
    }

    fn misfit(&mut self, place: Place) {
        let slot = place.slot.unwrap_or_default();
        let object = format!("{} slot {slot}", pack_key(place.kind, place.pack));
        let known = |one: &Damage| one.object == object && one.problem == NOT_IN_TABLE;
        if self.damage.iter().any(known) {
            return;
        }
        self.places.add(place, self.damage.len() as u32);
        self.damage.push(Damage {
            object,
            problem: NOT_IN_TABLE.into(),
            points: Default::default(),
            place: Some(place),
            touched: Vec::new(),
        });
    }

    /// A page; nothing when it is damaged, which the first walk has told.
    async fn page(&self, entry: &Entry, level: u8, block: u32) -> Result<Option<Arc<Page>>> {
        match self.shared.pages(&[*entry], level, block).await {
            Ok(mut pages) => Ok(pages.pop()),
            Err(error) if error.kind() == ErrorKind::Damaged => Ok(None),
            Err(error) => Err(error),
        }
    }
}
