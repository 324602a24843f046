//! Lists of packs that stay within one record.
//!
//! A record has an end, and the end of a collection names what it condemned beside what was tainted
//! before. So a collection condemns no more than that leaves room for; the next ones take the rest,
//! for what is tainted and gone is forgotten after some time. What was tainted before takes no room
//! when it is condemned again, so packs that stay for long stand in nobody's way.
//!
//! Where a list cannot be smaller (a repair may have to name every pack there is), the first packs
//! of it are named by one verdict: *all up to this one*. It says more than they did, never less;
//! the price is that deduplication passes over packs that nobody condemned.

use std::cmp::Reverse;

use crate::format::collection::{Sentence, Verdict};
use crate::format::id::{PackId, PackKind};

type Generation = (PackKind, PackId, u32);

fn generation(one: &Verdict) -> Generation {
    (one.kind, one.pack, one.generation)
}

/// Takes out of a list to be condemned what could not be named beside what is tainted already.
/// Returns how many those are.
pub(super) fn fit(verdicts: &mut Vec<Verdict>, tainted: &[Verdict], most: usize) -> u64 {
    let wanted = verdicts.len();
    if wanted.saturating_add(tainted.len()) <= most {
        return 0;
    }
    // What frees most goes first.
    verdicts.sort_by_key(|one| one.sentence);
    let mut known: Vec<Generation> = tainted.iter().map(generation).collect();
    known.sort_unstable();
    let mut room = most.saturating_sub(tainted.len());
    verdicts.retain(|one| {
        let costs = usize::from(known.binary_search(&generation(one)).is_err());
        let fits = costs <= room;
        room -= if fits { costs } else { 0 };
        fits
    });
    verdicts.truncate(most);
    (wanted - verdicts.len()) as u64
}

/// Each generation once, with the latest of its days.
pub(super) fn once(tainted: &mut Vec<Verdict>) {
    tainted.sort_unstable_by_key(|one| (generation(one), one.sentence, Reverse(one.day)));
    tainted.dedup_by_key(|one| (generation(one), one.sentence));
}

/// At most so many (and two at least) that name all that these name.
pub(crate) fn shorten(mut tainted: Vec<Verdict>, most: usize) -> Vec<Verdict> {
    if tainted.len() <= most.max(2) {
        return tainted;
    }
    tainted.sort_unstable_by_key(|one| one.pack);
    let mut short = tainted.split_off(tainted.len() - most.saturating_sub(2));
    for kind in [PackKind::Data, PackKind::Meta] {
        let covered = || tainted.iter().filter(|one| one.kind == kind);
        let Some(last) = covered().map(|one| one.pack).max() else { continue };
        short.push(Verdict {
            kind,
            pack: last,
            generation: u32::MAX,
            sentence: Sentence::TaintedUpTo,
            day: covered().map(|one| one.day).max().unwrap_or_default(),
        });
    }
    short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verdict(kind: u8, pack: u8, generation: u32, sentence: Sentence, day: u16) -> Verdict {
        let kind = if kind == 0 { PackKind::Data } else { PackKind::Meta };
        Verdict { kind, pack: PackId([pack; 16]), generation, sentence, day }
    }

    fn some(sentence: Sentence) -> impl Strategy<Value = Vec<Verdict>> {
        let one = (0u8..2, 0u8..40, 0u32..2, 0u16..3);
        let one = one.prop_map(move |(k, p, g, d)| verdict(k, p, g, sentence, d));
        proptest::collection::vec(one, 0..80)
    }

    fn names(list: &[Verdict], one: &Verdict) -> bool {
        list.iter().any(|by| {
            let same = by.kind == one.kind && by.day >= one.day;
            same && match by.sentence {
                Sentence::TaintedUpTo => one.pack <= by.pack,
                _ => generation(by) == generation(one),
            }
        })
    }

    proptest! {
        #[test]
        fn a_shorter_list_names_all_that_the_longer_one_did(
            mut all in some(Sentence::Tainted), most in 2usize..50,
        ) {
            let before = all.clone();
            once(&mut all);
            let short = shorten(shorten(all, most), most);
            prop_assert!(short.len() <= most);
            prop_assert!(before.iter().all(|one| names(&short, one)));
        }

        #[test]
        fn what_is_condemned_can_be_named_in_the_end(
            mut verdicts in some(Sentence::Dead), mut tainted in some(Sentence::Tainted),
            more in 0usize..20,
        ) {
            once(&mut verdicts);
            once(&mut tainted);
            let (wanted, most) = (verdicts.len(), tainted.len() + more);
            let left = fit(&mut verdicts, &tainted, most);
            prop_assert_eq!(left as usize + verdicts.len(), wanted);
            let known = |one: &&Verdict| tainted.iter().any(|t| generation(t) == generation(one));
            let new = verdicts.iter().filter(|one| !known(one)).count();
            prop_assert!(new == more || left == 0, "{} of {}", new, more);
            let sentence = Sentence::Tainted;
            tainted.extend(verdicts.into_iter().map(|one| Verdict { sentence, day: 9, ..one }));
            once(&mut tainted);
            prop_assert!(tainted.len() <= most);
        }
    }

    #[test]
    fn removals_come_before_compactions() {
        let compact = |pack| verdict(0, pack, 0, Sentence::Compact, 0);
        let dead = |pack| verdict(0, pack, 0, Sentence::Dead, 0);
        let mut verdicts = vec![compact(1), dead(2), compact(3), dead(4)];
        assert_eq!(fit(&mut verdicts, &[], 3), 1);
        assert_eq!(verdicts, [dead(2), dead(4), compact(1)]);
    }
}
