//! The packs there are, each with the day it was last read back.

use sluice_destination::{Destination, ErrorKind as DestinationKind, Key, MAX_PAGE, list_all};

use crate::bounded::get_record;
use crate::error::Result;
use crate::format::coverage::{Coverage, PackObject};
use crate::format::id::{COVERAGE_PREFIX, PackId, PackKind, RepositoryId, coverage_key};
use crate::scrub::ScrubOptions;

/// Upper ends of the ages in a status, in days.
const AGES: [u16; 5] = [1, 7, 30, 90, 365];
/// The rate of reading is that of so many days.
const RATE_DAYS: u16 = 7;

/// A pack of the listing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed {
    pub(super) object: PackObject,
    /// Packs are smaller than 256 MiB; a larger object counts as that much.
    pub(super) size: u32,
    pub(super) day: Option<u16>,
    /// Found damaged by this scrub.
    pub(super) damaged: bool,
}

/// All packs, ascending.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) packs: Vec<Listed>,
}

/// What has been read back, and when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// Packs there are.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes never read back.
    pub never_bytes: u64,
    /// Every byte was read back on this day (days since 1970) or later; nothing when some never
    /// were, or when there are none.
    pub proven_since: Option<u16>,
    /// Bytes by the days since they were read back: up to so many, and how many bytes. The last
    /// one has no end.
    pub by_age: Vec<(Option<u16>, u64)>,
    /// Bytes read back a day, over the last week.
    pub per_day: u64,
}

impl ScrubStatus {
    /// Days a whole round takes at the rate of the last week.
    pub fn round_days(&self) -> Option<u64> {
        (self.per_day > 0).then(|| self.bytes.div_ceil(self.per_day))
    }

    /// Bytes that were not read back within so many days, never ones included.
    pub fn older_than(&self, days: u16, today: u16) -> bool {
        self.bytes > 0 && self.proven_since.is_none_or(|day| today.saturating_sub(day) > days)
    }
}

impl Listing {
    pub(super) async fn read(destination: &dyn Destination, id: RepositoryId) -> Result<Self> {
        let coverage = read_coverage(destination, id).await?;
        let mut packs = Vec::new();
        for (kind, prefix) in [(PackKind::Data, "d/"), (PackKind::Meta, "m/")] {
            let mut after: Option<Key> = None;
            loop {
                let page = destination.list(prefix, after.as_ref(), MAX_PAGE).await?;
                for object in &page.objects {
                    let Some(name) = parse_pack(kind, &object.key) else { continue };
                    let size = u32::try_from(object.size).unwrap_or(u32::MAX);
                    let day = coverage.day(&name);
                    packs.push(Listed { object: name, size, day, damaged: false });
                }
                after = page.objects.last().map(|object| object.key.clone());
                if !page.more || after.is_none() {
                    break;
                }
            }
        }
        packs.sort_unstable_by_key(|listed| listed.object);
        Ok(Self { packs })
    }

    /// Numbers of the packs to read, the longest unread first.
    pub(super) fn oldest(&self, options: &ScrubOptions, today: u16) -> Vec<usize> {
        let due = |listed: &Listed| match (listed.day, options.max_age_days) {
            (Some(day), Some(days)) => today.saturating_sub(day) > days,
            _ => true,
        };
        let mut order: Vec<usize> =
            (0..self.packs.len()).filter(|at| due(&self.packs[*at])).collect();
        order.sort_by_key(|at| (self.packs[*at].day, *at));
        let Some(budget) = options.budget else { return order };
        let mut sum = 0u64;
        let within = order.iter().position(|at| {
            sum += u64::from(self.packs[*at].size);
            sum > budget
        });
        order.truncate(within.unwrap_or(order.len()).max(1));
        order
    }

    pub(super) fn status(&self, today: u16) -> ScrubStatus {
        let mut status = ScrubStatus {
            packs: self.packs.len() as u64,
            by_age: AGES.iter().map(|age| (Some(*age), 0)).chain([(None, 0)]).collect(),
            ..ScrubStatus::default()
        };
        let (mut oldest, mut recent, mut first) = (Some(u16::MAX), 0, today);
        for listed in &self.packs {
            let size = u64::from(listed.size);
            status.bytes += size;
            let Some(day) = listed.day else {
                (status.never_bytes, oldest) = (status.never_bytes + size, None);
                continue;
            };
            let age = today.saturating_sub(day);
            let bucket = AGES.iter().position(|end| age < *end).unwrap_or(AGES.len());
            status.by_age[bucket].1 += size;
            oldest = oldest.map(|oldest| oldest.min(day));
            first = first.min(day);
            if age < RATE_DAYS {
                recent += size;
            }
        }
        status.proven_since = oldest.filter(|_| !self.packs.is_empty());
        // Scrubs that began this week had fewer days.
        let days = (today - first + 1).min(RATE_DAYS);
        status.per_day = recent / u64::from(days.max(1));
        status
    }

    /// Writes down what was proven. What another scrub wrote meanwhile is kept.
    pub(super) async fn save(
        &mut self,
        destination: &dyn Destination,
        id: RepositoryId,
    ) -> Result<()> {
        let there = read_coverage(destination, id).await?;
        // Damaged ones are not proven, and so first in line next time.
        let proven =
            self.packs.iter().filter(|listed| !listed.damaged).filter_map(|listed| {
                Some((listed.object, listed.day.max(there.day(&listed.object))?))
            });
        let parts = Coverage::of(proven).encode(id);
        let count = parts.len();
        for (number, part) in parts.into_iter().enumerate() {
            destination.put(&coverage_key(number as u32), part.into()).await?;
        }
        for object in list_all(destination, COVERAGE_PREFIX).await? {
            let number = object.key.as_str()[COVERAGE_PREFIX.len()..].parse::<usize>();
            if number.is_ok_and(|number| number >= count) {
                destination.delete(&object.key).await?;
            }
        }
        Ok(())
    }
}

async fn read_coverage(destination: &dyn Destination, id: RepositoryId) -> Result<Coverage> {
    let mut coverage = Coverage::default();
    for object in list_all(destination, COVERAGE_PREFIX).await? {
        let Ok(number) = object.key.as_str()[COVERAGE_PREFIX.len()..].parse() else { continue };
        let bytes = match get_record(destination, &object.key).await {
            Err(error) if error.kind() == DestinationKind::NotFound => continue,
            other => other?,
        };
        match Coverage::decode(&bytes, id, number) {
            Ok(part) => coverage.extend(part),
            Err(error) => {
                tracing::warn!(key = %object.key, %error, "a part of the coverage is lost");
            }
        }
    }
    Ok(coverage)
}

/// The pack a key names.
fn parse_pack(kind: PackKind, key: &Key) -> Option<PackObject> {
    let (name, generation) = key.as_str().rsplit('/').next()?.split_once('.')?;
    let (pack, generation) = (PackId::parse(name).ok()?, generation.parse().ok()?);
    Some(PackObject { kind, generation, pack })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::id::SessionId;

    fn listing(packs: &[(u32, u32, Option<u16>)]) -> Listing {
        let listed = |(serial, size, day): &(u32, u32, Option<u16>)| Listed {
            object: PackObject {
                kind: PackKind::Data,
                generation: 0,
                pack: PackId::new(SessionId([1; 12]), *serial),
            },
            size: *size,
            day: *day,
            damaged: false,
        };
        Listing { packs: packs.iter().map(listed).collect() }
    }

    #[test]
    fn the_longest_unread_packs_come_first_and_within_the_budget() {
        let packs = listing(&[
            (0, 10, Some(100)),
            (1, 10, None),
            (2, 10, Some(90)),
            (3, 10, Some(110)),
            (4, 10, Some(90)),
        ]);
        let chosen =
            |budget, max_age_days| packs.oldest(&ScrubOptions { budget, max_age_days }, 110);
        assert_eq!(chosen(None, None), [1, 2, 4, 0, 3]);
        assert_eq!(chosen(Some(30), None), [1, 2, 4]);
        assert_eq!(chosen(Some(39), None), [1, 2, 4]);
        assert_eq!(chosen(Some(1), None), [1], "a budget below a pack would never end");
        assert_eq!(chosen(None, Some(10)), [1, 2, 4]);
        assert_eq!(chosen(None, Some(0)), [1, 2, 4, 0]);
    }

    #[test]
    fn a_status_says_since_when_every_byte_is_proven() {
        let status =
            listing(&[(0, 10, Some(100)), (1, 20, Some(94)), (2, 5, Some(10))]).status(100);
        assert_eq!((status.packs, status.bytes, status.never_bytes), (3, 35, 0));
        assert_eq!(status.proven_since, Some(10));
        assert_eq!(
            status.by_age,
            [(Some(1), 10), (Some(7), 20), (Some(30), 0), (Some(90), 0), (Some(365), 5), (None, 0),]
        );
        assert_eq!((status.per_day, status.round_days()), (30 / 7, Some(9)));
        assert!(status.older_than(89, 100) && !status.older_than(90, 100));
        let status = listing(&[(0, 10, Some(100)), (1, 20, None)]).status(100);
        assert_eq!((status.proven_since, status.never_bytes), (None, 20));
        assert!(status.older_than(10_000, 100));
        assert_eq!(listing(&[]).status(100).proven_since, None);
        assert!(!listing(&[]).status(100).older_than(0, 100));
    }
}
