//! A new data epoch: from now on chunks are sealed under a key that the old master key does not
//! give away.
//!
//! # Order of things
//!
//! 1. Raise what the descriptor asks of a reader, so that earlier programs refuse.
//! 2. Put a new slot for each one that is kept, with the new secret, and prove that it opens.
//! 3. Put the epoch's record with put-if-absent. From this moment the epoch exists; one of
//!    several who try wins.
//! 4. Remove the old slots.
//!
//! A crash before 3 leaves slots with a secret that nobody uses, beside those that were there;
//! all of them open the repository as before. A crash after it leaves old slots beside the new
//! ones; those are passed over, and `key list` shows their epoch.

use bytes::Bytes;
use zeroize::Zeroizing;

use super::{Slots, name_of, newest_epoch, read_slots, try_slot};
use crate::bounded::is_exactly;
use crate::crypto::{EpochSecret, MAX_EPOCHS, Secrets, random};
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::header::Kind;
use crate::format::id::{descriptor_key, epoch_key};
use crate::format::keyslot::{KdfCost, KeySlot};
use crate::format::record::{EpochRecord, epoch_object, to_cbor};
use crate::host;
use crate::repository::{Repository, Unlock, parse_error};

/// Which key slots go over into the new epoch.
#[derive(Debug, Clone, Default)]
pub struct RotateData {
    /// The passphrases whose slots are kept: a slot can only be wrapped again with its own.
    pub passphrases: Vec<Zeroizing<String>>,
    /// Names of recovery slots to be kept although nothing proves that their public key was not
    /// put there by a stranger, as in slots of format 1.0.
    pub trusted: Vec<String>,
    /// Whether slots that cannot be kept may be dropped.
    pub drop_others: bool,
    /// Cost of stretching the passphrases.
    pub kdf: KdfCost,
}

/// What became of the key slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RotatedData {
    /// The epoch that began.
    pub epoch: u32,
    /// Names of slots before and after.
    pub kept: Vec<(String, String)>,
    /// Names of slots that are gone: their passphrases open nothing any more.
    pub dropped: Vec<String>,
    /// Names of slots that should be gone and could not be removed.
    pub left_behind: Vec<String>,
}

/// A slot that goes over, and how to prove that it does.
struct Kept {
    name: String,
    slot: KeySlot,
    proof: Option<Unlock>,
}

impl Repository {
    /// Begins a new data epoch. Packs of earlier epochs stay as they are and readable; this
    /// object goes on writing under its own epoch until it is opened again.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when slots would be dropped and that is not allowed;
    /// [`ErrorKind::Conflict`] when another epoch began meanwhile. After an error the repository
    /// opens as before.
    pub async fn rotate_data(&self, options: &RotateData) -> Result<RotatedData> {
        let shared = &self.shared;
        let descriptor = Self::peek(&*shared.destination).await?;
        if descriptor.encryption == "open" {
            let text = "this repository is not encrypted; there is no key to change";
            return Err(RepositoryError::new(ErrorKind::Invalid, text));
        }
        if newest_epoch(&*shared.destination, &descriptor).await? != self.data_epoch() {
            return Err(overtaken());
        }
        let mut secrets = shared.current_secrets();
        if secrets.epochs.len() >= MAX_EPOCHS {
            let text = "this repository has as many data epochs as it can; create a new one";
            return Err(RepositoryError::new(ErrorKind::Invalid, text));
        }
        let old = read_slots(&*shared.destination).await?;
        let current = secrets.clone();
        secrets.epochs.push(EpochSecret::generate()?);
        let (kept, dropped) = self.choose(&old, &current, &secrets, options).await?;
        if !dropped.is_empty() && !options.drop_others {
            return Err(would_drop(&dropped));
        }
        if kept.is_empty() {
            let text = "no key slot would be left; give the passphrase of one";
            return Err(RepositoryError::new(ErrorKind::Invalid, text));
        }
        let raised = Bytes::from(descriptor.with_epochs().encode());
        shared.destination.put(&descriptor_key(), raised).await?;
        let mut staged = Vec::new();
        let done = match self.stage(&kept, &secrets, &mut staged).await {
            Ok(()) => self.begin_epoch(&secrets).await,
            Err(error) => Err((error, true)),
        };
        if let Err((error, sure)) = done {
            for name in staged.iter().filter(|_| sure) {
                let _ = self.delete_slot(name).await;
            }
            return Err(error);
        }
        let mut result =
            RotatedData { epoch: self.data_epoch() + 1, dropped, ..RotatedData::default() };
        result.kept = kept.into_iter().map(|kept| kept.name).zip(staged).collect();
        for name in old.iter().map(|(key, _)| name_of(key)) {
            if let Err(error) = self.delete_slot(&name).await {
                tracing::warn!(%error, "an old key slot stays behind");
                result.left_behind.push(name);
            }
        }
        Ok(result)
    }

    /// Slots to be kept, wrapped anew, and the names of those that cannot be.
    async fn choose(
        &self,
        old: &Slots,
        current: &Secrets,
        secrets: &Secrets,
        options: &RotateData,
    ) -> Result<(Vec<Kept>, Vec<String>)> {
        let shared = &self.shared;
        let (mut kept, mut dropped) = (Vec::new(), Vec::new());
        for (key, slot) in old {
            let name = name_of(key);
            let Ok(slot) = slot else {
                dropped.push(name);
                continue;
            };
            if slot.epoch() != self.data_epoch() {
                continue; // left behind by a rotation that was interrupted; it just goes
            }
            let trusted =
                slot.has_known_recipient(shared.id, current) || options.trusted.contains(&name);
            let again = if trusted {
                slot.rewrapped(shared.id, secrets, random()?)
                    .map_err(|error| parse_error(key, error))?
                    .map(|slot| (slot, None))
            } else {
                self.with_passphrase(slot, secrets, options).await?
            };
            match again {
                Some((slot, proof)) => kept.push(Kept { name, slot, proof }),
                None => dropped.push(name),
            }
        }
        Ok((kept, dropped))
    }

    /// The slot of one of the passphrases, wrapped anew.
    async fn with_passphrase(
        &self,
        slot: &KeySlot,
        secrets: &Secrets,
        options: &RotateData,
    ) -> Result<Option<(KeySlot, Option<Unlock>)>> {
        let (shared, (label, _, created)) = (&self.shared, slot.describe());
        for passphrase in &options.passphrases {
            let unlock = Unlock::Passphrase(passphrase.clone());
            let opened = try_slot(slot.clone(), shared.id, unlock.clone()).await?;
            let ours = |opened: &Secrets| opened.master.0 == secrets.master.0;
            if !opened.ok().flatten().as_ref().is_some_and(ours) {
                continue;
            }
            let note = (label.to_owned(), created.to_owned());
            let again = shared.wrap(secrets, passphrase, options.kdf, note).await?;
            return Ok(Some((again, Some(unlock))));
        }
        Ok(None)
    }

    /// Puts the new slots beside the old ones and proves that they open.
    async fn stage(
        &self,
        kept: &[Kept],
        secrets: &Secrets,
        staged: &mut Vec<String>,
    ) -> Result<()> {
        for Kept { slot, proof, .. } in kept {
            let name = self.put_slot(slot.clone(), secrets).await?;
            staged.push(name.clone());
            if let Some(unlock) = proof {
                self.shared.prove(&name, unlock.clone()).await?;
            }
        }
        Ok(())
    }

    /// Puts the epoch's record. With an error comes whether the epoch surely has not begun.
    async fn begin_epoch(&self, secrets: &Secrets) -> Result<(), (RepositoryError, bool)> {
        let shared = &self.shared;
        let epoch = secrets.epochs.len() as u32;
        let record = EpochRecord {
            checks: secrets.checks().concat(),
            begun_ms: shared.clock.now_ms(),
            host: host::name(),
        };
        let sealed = shared
            .seal_record(Kind::Epoch, epoch_object(epoch), &[], &to_cbor(&record))
            .map_err(|error| (error, true))?;
        let key = epoch_key(epoch);
        let Err(error) = shared.destination.put_new(&key, sealed.clone()).await else {
            return Ok(());
        };
        // After a lost answer the record may be there: its bytes tell whose it is.
        match is_exactly(&*shared.destination, &key, &sealed).await {
            Ok(true) => Ok(()),
            Ok(false) => Err((overtaken(), true)),
            // Not there yet is not never: a put that timed out may still happen, and then the
            // new slots are the ones that open.
            Err(_) => Err((error.into(), false)),
        }
    }
}

fn overtaken() -> RepositoryError {
    let text = "the data key was changed meanwhile; look at `sluice key list` before trying again";
    RepositoryError::new(ErrorKind::Conflict, text)
}

fn would_drop(dropped: &[String]) -> RepositoryError {
    RepositoryError::new(
        ErrorKind::Invalid,
        format!(
            "these key slots would be dropped, for neither their passphrase was given nor do they \
             prove whose they are: {}; nothing was changed",
            dropped.join(", ")
        ),
    )
}
