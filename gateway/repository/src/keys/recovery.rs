//! Which of several key slots that one recovery key opens is the repository's.
//!
//! A slot for a recovery key is made with its public half, which stands in the slot: whoever can
//! write to the destination can wrap a key of their own for it. Slots that give the same key are
//! alike. Where they do not, the right one opens what is sealed in the repository.

use sluice_destination::Destination;

use super::Opened;
use crate::bounded::get_record;
use crate::crypto::KeyRing;
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::id::{RepositoryId, commits_prefix, parse_point_key};
use crate::format::record::Envelope;

/// Sealed objects that are tried: some may be damaged.
const WITNESSES: usize = 16;

/// The first of the slots that opened, or the first that gives the repository's own key.
pub(super) async fn the_right_one(
    destination: &dyn Destination,
    id: RepositoryId,
    mut found: Vec<Opened>,
) -> Result<Option<Opened>> {
    let Some(first) = found.first() else { return Ok(None) };
    if found.iter().all(|one| one.secrets.master.0 == first.secrets.master.0) {
        return Ok(Some(found.swap_remove(0)));
    }
    let rings: Vec<KeyRing> = found.iter().map(|one| KeyRing::new(&one.secrets.master)).collect();
    for object in destination.list(&commits_prefix(), None, WITNESSES).await?.objects {
        let Some((_, point)) = parse_point_key(&object.key) else { continue };
        let bytes = match get_record(destination, &object.key).await {
            Ok(bytes) => bytes,
            Err(error) if error.is_retryable() => return Err(error.into()),
            Err(_) => continue,
        };
        let Ok(record) = Envelope::parse(&bytes) else { continue };
        let opens = |ring: &KeyRing| record.open(ring, record.header.kind, id, &point.0).is_ok();
        if let Some(at) = rings.iter().position(opens) {
            return Ok(Some(found.swap_remove(at)));
        }
    }
    let names: Vec<&str> = found.iter().map(|one| one.slot.as_str()).collect();
    Err(RepositoryError::new(
        ErrorKind::WrongKey,
        format!(
            "key slots {} of {} open with this recovery key and give different keys, and nothing \
             there tells which one is the repository's; open it with a passphrase and remove the \
             one that is not vouched for in `sluice key list`",
            names.join(" and "),
            destination.location()
        ),
    ))
}
