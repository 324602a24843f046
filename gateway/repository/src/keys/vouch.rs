//! Which key slots were made by somebody with the key, and which anybody may have put there.
//!
//! Whoever can write to the destination can put a file below `keys/`. It opens nothing, but it
//! looks like a way in: somebody who counts on it may remove the last one that is. A slot's
//! voucher ([`Voucher`]) tells; slots of earlier programs have none until
//! [`Repository::vouch`] makes them anew.

use sluice_destination::Key;

use super::{ListedSlot, no_slot};
use crate::bounded::is_exactly;
use crate::crypto::random;
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::keyslot::{KeySlot, Voucher};
use crate::repository::{Repository, parse_error};

/// What is known of who made a key slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Somebody with the key, as it is.
    Vouched,
    /// It has opened the repository just now; nobody vouches for it.
    Opened,
    /// Somebody with the key put its public key there; what it wraps may be anything.
    Recipient,
    /// Nothing tells: an earlier program made it, or somebody without the key did.
    Unknown,
    /// It was changed or renamed since it was made, or made without the key.
    Forged,
}

/// What [`Repository::vouch`] has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VouchedSlots {
    /// Names of slots before and after.
    pub renewed: Vec<(String, String)>,
    /// Names of slots for which nothing can be said with this key.
    pub unknown: Vec<String>,
    /// Names of slots that were made anew and could not be removed.
    pub left_behind: Vec<String>,
}

impl Repository {
    /// What is known of who made this slot.
    pub fn standing(&self, name: &str, slot: &KeySlot) -> Standing {
        let shared = &self.shared;
        if let KeySlot::Open { .. } = slot {
            // Where there is no encryption it is the key that counts, and elsewhere it never does.
            let ours = slot.open_key().ok().flatten().map(|key| key.0);
            let open = shared.descriptor.encryption == "open";
            let fits = open && ours == Some(shared.secrets.master.0);
            return if fits { Standing::Vouched } else { Standing::Unknown };
        }
        match slot.voucher(shared.id, name, &shared.secrets) {
            Voucher::Sound => Standing::Vouched,
            Voucher::Wrong => Standing::Forged,
            Voucher::Absent if self.has_opened(name, slot) => Standing::Opened,
            Voucher::Absent => {
                let known = slot.has_known_recipient(shared.id, &shared.current_secrets());
                if known { Standing::Recipient } else { Standing::Unknown }
            }
        }
    }

    /// Whether this very slot opened the repository.
    fn has_opened(&self, name: &str, slot: &KeySlot) -> bool {
        self.shared.slot == name && self.shared.opened.as_ref() == Some(slot)
    }

    /// Whether a slot is sure to open the repository for whoever it is for.
    pub(super) fn is_sure(&self, listed: &ListedSlot) -> bool {
        listed.slot.as_ref().is_ok_and(|slot| self.is_way_in(&listed.name, slot))
    }

    /// The same of a slot as it lies under this name, here or at a replica.
    pub(crate) fn is_way_in(&self, name: &str, slot: &KeySlot) -> bool {
        let known = self.standing(name, slot) == Standing::Vouched || self.has_opened(name, slot);
        slot.epoch() >= self.data_epoch() && known
    }

    /// Makes the slots anew that have no voucher, as far as it is sure what they are: the one that
    /// opened the repository, and those of recipients whose public key is known, or is one of
    /// `trusted`, which are names of slots. Each new one is there before the old one goes.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] and [`ErrorKind::Invalid`] when a trusted slot is not there or has
    /// a passphrase; [`ErrorKind::Conflict`] when a data epoch began meanwhile.
    pub async fn vouch(&self, trusted: &[String]) -> Result<VouchedSlots> {
        let slots = self.key_slots().await?;
        for name in trusted {
            let Some(listed) = slots.iter().find(|listed| listed.name == *name) else {
                return Err(no_slot(name));
            };
            let recipient = listed.slot.as_ref().is_ok_and(|slot| slot.fingerprint().is_some());
            if !recipient {
                let text = format!(
                    "key slot {name} is of no recovery key; its passphrase proves it: vouch for \
                     it with that one"
                );
                return Err(RepositoryError::new(ErrorKind::Invalid, text));
            }
        }
        let mut done = VouchedSlots::default();
        for listed in slots {
            let ListedSlot { name, slot: Ok(slot), standing } = listed else { continue };
            if standing == Some(Standing::Vouched) || slot.epoch() < self.data_epoch() {
                continue;
            }
            let trust = trusted.contains(&name);
            match self.again(&name, &slot, standing, trust).await? {
                Some(new) => {
                    if let Err(error) = self.delete_slot(&name).await {
                        tracing::warn!(%error, "a key slot that was made anew stays behind");
                        done.left_behind.push(name.clone());
                    }
                    done.renewed.push((name, new));
                }
                None => done.unknown.push(name),
            }
        }
        Ok(done)
    }

    /// Puts a slot once more, vouched for; its new name, when it is sure what it is.
    async fn again(
        &self,
        name: &str,
        slot: &KeySlot,
        standing: Option<Standing>,
        trust: bool,
    ) -> Result<Option<String>> {
        let shared = &self.shared;
        let (slot, secrets) = if self.has_opened(name, slot) {
            let known = shared.secrets.clone();
            (Some(slot.clone().with_epoch(known.epochs.len() as u32)), known)
        } else if trust || standing == Some(Standing::Recipient) {
            let secrets = shared.current_secrets();
            let again = slot.rewrapped(shared.id, &secrets, random()?);
            (again.map_err(|error| parse_error(format!("keys/{name}"), error))?, secrets)
        } else {
            return Ok(None);
        };
        let Some(slot) = slot else { return Ok(None) };
        let new = self.add_slot(slot.clone(), &secrets).await?;
        // The old one goes only once the new one is known to be there as it was meant.
        let key = Key::new(format!("keys/{new}"))?;
        let written = slot.vouched(shared.id, &new, &secrets).encode();
        if !is_exactly(&*shared.destination, &key, &written).await? {
            return Err(RepositoryError::damaged(key, "it is not what was written"));
        }
        Ok(Some(new))
    }

    /// Refuses to remove a slot when no other one is sure to open the repository.
    pub(super) fn must_leave_a_way_in(&self, name: &str, slots: &[ListedSlot]) -> Result<()> {
        let others = || slots.iter().filter(|listed| listed.name != name);
        if others().any(|listed| self.is_sure(listed)) {
            return Ok(());
        }
        let epoch = self.data_epoch();
        let may_open =
            |listed: &&ListedSlot| listed.slot.as_ref().is_ok_and(|slot| slot.epoch() >= epoch);
        let unsure: Vec<&str> =
            others().filter(may_open).map(|listed| listed.name.as_str()).collect();
        let text = match unsure.as_slice() {
            [] => {
                "this is the last key slot; without it the data is lost, add another first".into()
            }
            unsure => format!(
                "this is the last key slot that is known to open the repository: of {} nobody with \
                 the key says that they made it; run `sluice key vouch`, open the repository with \
                 the key of one of them, or add another first",
                unsure.join(", ")
            ),
        };
        Err(RepositoryError::new(ErrorKind::Invalid, text))
    }
}
