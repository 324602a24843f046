//! Which small objects of the source the target takes over.
//!
//! # Model
//!
//! Whoever can write to the source can put anything under any name. Without the key an object's
//! layout, its place and its size can be checked, and not who wrote it; with it, its seal can. So
//! what decides whether a repository opens (its descriptor, the records of data epochs) comes to
//! the target only where it adds to what is there:
//!
//! * A descriptor that is there is replaced by no other but the one that a new data epoch makes of
//!   it.
//! * A record of an epoch is one of this repository and follows those that are there. One that
//!   is there already stays as it is.
//!
//! What is refused is told as damage of the source, and everything else is copied.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sluice_destination::{Key, list_all};

use super::check;
use super::plan::Plan;
use crate::bounded::get_record;
use crate::crypto::MAX_EPOCHS;
use crate::error::{ErrorKind, Result};
use crate::format::Parsed;
use crate::format::descriptor::Descriptor;
use crate::format::header::Kind;
use crate::format::id::{EPOCHS_PREFIX, descriptor_key, epoch_number};
use crate::format::record::epoch_object;
use crate::verify::Damage;

/// What becomes of the target's descriptor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Raise {
    /// It stays.
    Keep,
    /// This takes its place: it asks more of readers.
    To(Bytes),
    /// It stays, for the source's is another.
    Refuse,
}

/// Compares the descriptors of both sides.
pub(crate) fn descriptor(here: &[u8], there: &[u8]) -> Parsed<Raise> {
    let (here, there) = (Descriptor::decode(here)?, Descriptor::decode(there)?);
    let raised = there.with_epochs();
    Ok(if here == there {
        Raise::Keep
    } else if here == raised {
        Raise::To(raised.encode().into())
    } else {
        Raise::Refuse
    })
}

fn refused(object: &Key, problem: impl ToString) -> Damage {
    Damage::whole(object.to_string(), problem.to_string(), BTreeSet::new())
}

/// That the source has another descriptor than the target, which keeps its own.
pub(crate) fn another_descriptor() -> Damage {
    refused(
        &descriptor_key(),
        "it says something else than the replica's, which a new data epoch does not explain; the \
         replica keeps its own",
    )
}

/// The records of data epochs that the target lacks, and those that it does not take.
pub(crate) async fn epochs(plan: &Plan) -> Result<(Vec<(Key, Bytes)>, Vec<Damage>)> {
    let (mut taken, mut damage) = (Vec::new(), Vec::new());
    if plan.epochs.is_empty() {
        return Ok((taken, damage));
    }
    let there = list_all(&*plan.target, EPOCHS_PREFIX).await?;
    let mut known: BTreeSet<u32> =
        there.iter().filter_map(|object| epoch_number(&object.key)).collect();
    let mut wanted = BTreeMap::new();
    for key in &plan.epochs {
        match epoch_number(key) {
            Some(number) => drop(wanted.insert(number, key)),
            None => damage.push(refused(key, "this names no data epoch")),
        }
    }
    for (number, key) in wanted {
        if number as usize > MAX_EPOCHS || number > 1 && !known.contains(&(number - 1)) {
            damage.push(refused(key, "the data epochs before it are not there"));
            continue;
        }
        let body = get_record(&*plan.source.destination, key).await?;
        match epoch(plan, key, number, &body)? {
            Ok(()) => {
                known.insert(number);
                taken.push((key.clone(), body));
            }
            Err(problem) => damage.push(refused(key, problem)),
        }
    }
    Ok((taken, damage))
}

/// Whether a record is that of an epoch, as far as can be told.
fn epoch(
    plan: &Plan,
    key: &Key,
    number: u32,
    body: &[u8],
) -> Result<std::result::Result<(), String>> {
    let object = epoch_object(number);
    let Some(repository) = &plan.source.key else {
        let checked = check::object(body, plan.id, Kind::Epoch, object);
        return Ok(checked.map_err(|error| error.to_string()));
    };
    match repository.shared.open_record(key, Kind::Epoch, object, body) {
        Ok(_) => Ok(Ok(())),
        Err(error) if error.kind() == ErrorKind::Damaged => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use sluice_destination::Capabilities;

    use super::*;
    use crate::format::id::RepositoryId;

    #[test]
    fn a_descriptor_is_raised_by_a_data_epoch_and_changed_by_nothing() {
        let capabilities = Capabilities::default();
        let old = Descriptor::new(RepositoryId([1; 16]), "now".into(), false, capabilities);
        let new = old.with_epochs();
        let judge = |here: &Descriptor, there: &Descriptor| {
            descriptor(&here.encode(), &there.encode()).unwrap()
        };
        assert_eq!(judge(&old, &old), Raise::Keep);
        assert_eq!(judge(&new, &old), Raise::To(new.encode().into()));
        assert_eq!(judge(&old, &new), Raise::Refuse, "it asks less than before");
        for other in [
            Descriptor { encryption: "open".into(), ..old.clone() },
            Descriptor { min_writer: 9, ..old.clone() },
            Descriptor { created: "then".into(), ..new.clone() },
            Descriptor { arbiter: "external".into(), ..new.clone() },
        ] {
            assert_eq!(judge(&other, &old), Raise::Refuse, "{other:?}");
            assert_eq!(judge(&other, &new), Raise::Refuse, "{other:?}");
        }
        assert!(descriptor(b"{}", &old.encode()).is_err());
    }
}
