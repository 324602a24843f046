//! Whether a pack that both sides have is good enough as it is at the target.
//!
//! A pack of generation 0 is complete. A later generation was compacted, on either side, by what
//! was alive there; the footers, which need no key, tell whether one has all slots.

use std::sync::Arc;

use bytes::Bytes;
use sluice_destination::{ByteRange, Destination};

use super::check;
use super::listing::{Found, PackName, with_generation};
use crate::error::Result;
use crate::format::id::RepositoryId;
use crate::format::pack::{FOOTER_LEN, Footer, MAX_PACK};
use sluice_destination::Key;

/// What to do about a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The target has it.
    Keep,
    /// Put the source's bytes under this key.
    Copy(Key),
    /// The target's bytes are damaged: put the source's in their place.
    Repair,
    /// Both were compacted, each by what was alive on its side: neither may have what the other
    /// has.
    Unclear,
}

/// Both sides of a pack.
pub(crate) struct Sides<'s> {
    pub(crate) source: &'s Arc<dyn Destination>,
    pub(crate) target: &'s Arc<dyn Destination>,
    pub(crate) repository: RepositoryId,
}

impl Sides<'_> {
    /// What to do about a pack both sides have.
    pub(crate) async fn judge(
        &self,
        name: PackName,
        here: &Found,
        there: &Found,
    ) -> Result<Verdict> {
        if there.generation == 0 {
            let same = here.generation > 0 || here.size == there.size;
            if same || self.is_sound(name, there).await? {
                return Ok(Verdict::Keep);
            }
            return Ok(Verdict::Repair);
        }
        let Some(theirs) = footer(self.target, there).await? else { return Ok(Verdict::Repair) };
        if theirs.live == theirs.slots {
            return Ok(Verdict::Keep);
        }
        let Some(ours) = footer(self.source, here).await? else { return Ok(Verdict::Keep) };
        if ours.hash == theirs.hash {
            return Ok(Verdict::Keep);
        }
        if ours.live == ours.slots {
            // Complete, so it holds whatever the target's holds; the newest generation wins.
            let generation = here.generation.max(there.generation + 1);
            return Ok(Verdict::Copy(with_generation(&here.key, generation)?));
        }
        Ok(Verdict::Unclear)
    }

    async fn is_sound(&self, name: PackName, found: &Found) -> Result<bool> {
        if found.size >= MAX_PACK as u64 {
            return Ok(false);
        }
        let bytes = self.target.get(&found.key, ByteRange::Full).await?;
        Ok(sound(bytes, self.repository, name).await?.is_ok())
    }
}

/// Checks a pack's bytes on a thread of its own: hashing takes milliseconds.
pub(crate) async fn sound(
    bytes: Bytes,
    repository: RepositoryId,
    name: PackName,
) -> Result<std::result::Result<Bytes, String>> {
    let check = move || match check::pack(&bytes, repository, name) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    };
    tokio::task::spawn_blocking(check)
        .await
        .map_err(|error| crate::repository::local("checking a pack was interrupted", error))
}

/// The footer of a pack; nothing when it is damaged.
async fn footer(side: &Arc<dyn Destination>, found: &Found) -> Result<Option<Footer>> {
    let tail = side.get(&found.key, ByteRange::Suffix(FOOTER_LEN as u64)).await?;
    Ok(Footer::decode(&tail).ok().filter(|footer| footer.pack_len() == found.size))
}
