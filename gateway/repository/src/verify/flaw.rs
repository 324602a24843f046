//! What was found to be wrong, and what it touches.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::error::RepositoryError;
use crate::format::id::{PackId, PackKind, pack_key};
use crate::verify::packs::PackFlaws;
use crate::verify::references::PackName;

/// Runs of bytes kept for one image of a point; more are only counted.
const MAX_RANGES: usize = 32;

/// Where in the packs damage lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Kind of the pack.
    pub kind: PackKind,
    /// The pack.
    pub pack: PackId,
    /// The slot; nothing when the pack as a whole is to blame.
    pub slot: Option<u16>,
}

/// The part of an image that needs a damaged object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// The point, as INSTANCE@ID.
    pub point: String,
    /// The image.
    pub image: String,
    /// Runs of bytes of the image, ascending; the first of them when there are many.
    pub ranges: Vec<Range<u64>>,
    /// Bytes in all runs.
    pub bytes: u64,
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The object, and the slot where one is to blame.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// Points that need it, as INSTANCE@ID.
    pub points: BTreeSet<String>,
    /// Where it lies, when it lies in a pack.
    pub place: Option<Place>,
    /// What of the points' images needs it.
    pub touched: Vec<Touched>,
}

/// The problem of a block map that names what is not there.
pub(super) const NOT_IN_TABLE: &str = "the pack's table does not have what the block map names";

impl Damage {
    /// Damage of an object as a whole.
    pub fn whole(object: String, problem: String, points: BTreeSet<String>) -> Self {
        Self { object, problem, points, place: None, touched: Vec::new() }
    }

    /// Whether the pack is sound and the block map names something else.
    pub(crate) fn is_misfit(&self) -> bool {
        self.problem == NOT_IN_TABLE
    }
}

/// Damage while it is being collected: each object and problem once.
#[derive(Debug, Default)]
pub(super) struct Flaws(BTreeMap<(String, String), Damage>);

impl Flaws {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, object: String, problem: String, place: Option<Place>) {
        self.entry(object, problem, place);
    }

    /// Adds damage that a point, which is known, needs as a whole.
    pub(super) fn add_for(&mut self, object: String, problem: String, point: &str) {
        self.entry(object, problem, None).points.insert(point.to_owned());
    }

    /// Adds what reading from a pack failed with.
    pub(super) fn add_error(&mut self, error: &RepositoryError, key: &str, place: Place) {
        let (object, problem) = split(error, key);
        let slot = place.slot.filter(|slot| object.ends_with(&format!(" slot {slot}")));
        self.add(object, problem, Some(Place { slot, ..place }));
    }

    /// Adds all that is wrong with a pack.
    pub(super) fn add_pack(&mut self, kind: PackKind, pack: PackId, flaws: &PackFlaws) {
        let key = pack_key(kind, pack);
        let whole = flaws.whole.iter().map(|error| (None, error));
        let slots = flaws.slots.iter().map(|(slot, error)| (Some(*slot), error));
        for (slot, error) in whole.chain(slots) {
            self.add_error(error, key.as_str(), Place { kind, pack, slot });
        }
    }

    fn entry(&mut self, object: String, problem: String, place: Option<Place>) -> &mut Damage {
        self.0.entry((object.clone(), problem.clone())).or_insert_with(|| Damage {
            object,
            problem,
            points: BTreeSet::new(),
            place,
            touched: Vec::new(),
        })
    }

    pub(super) fn into_vec(self) -> Vec<Damage> {
        self.0.into_values().collect()
    }
}

/// What is wrong with a pack, as findings of which nobody knows yet who needs them.
pub(crate) fn damage_of(kind: PackKind, pack: PackId, flaws: &PackFlaws) -> Vec<Damage> {
    let mut all = Flaws::default();
    all.add_pack(kind, pack, flaws);
    all.into_vec()
}

/// Damaged places, each with the numbers of the flaws that lie there.
#[derive(Debug, Default)]
pub(super) struct BadPlaces {
    whole: BTreeMap<PackName, Vec<u32>>,
    slots: BTreeMap<(PackName, u16), Vec<u32>>,
}

impl BadPlaces {
    pub(super) fn of(damage: &[Damage]) -> Self {
        let mut places = Self::default();
        for (number, one) in damage.iter().enumerate() {
            if let Some(place) = one.place {
                places.add(place, number as u32);
            }
        }
        places
    }

    pub(super) fn add(&mut self, place: Place, number: u32) {
        let name = (place.kind, place.pack);
        match place.slot {
            None => self.whole.entry(name).or_default().push(number),
            Some(slot) => self.slots.entry((name, slot)).or_default().push(number),
        }
    }

    /// Numbers of the flaws a reference to this slot meets.
    pub(super) fn at(&self, name: PackName, slot: u16) -> impl Iterator<Item = u32> + '_ {
        let whole = self.whole.get(&name).into_iter().flatten();
        whole.chain(self.slots.get(&(name, slot)).into_iter().flatten()).copied()
    }
}

/// Adds bytes to what is touched, in ascending order of the image.
pub(super) fn touch(damage: &mut Damage, point: &str, image: &str, range: Range<u64>) {
    let known = damage.touched.last_mut().filter(|t| t.point == point && t.image == image);
    let touched = match known {
        Some(touched) => touched,
        None => {
            damage.points.insert(point.to_owned());
            damage.touched.push(Touched {
                point: point.to_owned(),
                image: image.to_owned(),
                ranges: Vec::new(),
                bytes: 0,
            });
            let last = damage.touched.len() - 1;
            &mut damage.touched[last]
        }
    };
    match touched.ranges.last_mut() {
        Some(last) if last.end >= range.start => {
            // Two flaws of one object may name the same bytes.
            touched.bytes += range.end.saturating_sub(last.end.max(range.start));
            last.end = last.end.max(range.end);
        }
        _ => {
            touched.bytes += range.end - range.start;
            if touched.ranges.len() < MAX_RANGES {
                touched.ranges.push(range);
            }
        }
    }
}

/// Splits "object X is damaged: Y" into X and Y.
pub(crate) fn split(error: &RepositoryError, object: &str) -> (String, String) {
    let text = error.to_string();
    match text.strip_prefix("object ").and_then(|rest| rest.split_once(" is damaged: ")) {
        Some((object, problem)) => (object.to_owned(), problem.to_owned()),
        None => (object.to_owned(), text),
    }
}
