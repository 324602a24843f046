//! Key slots: the ways to unlock the secrets of a repository (`docs/format/`, section 4).

mod voucher;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::checked::with_check;
use super::id::RepositoryId;
use super::{FormatError, Parsed};
use crate::crypto::{EpochSecret, MAX_EPOCHS, MasterKey, NONCE_LEN, SealKey, Secrets};

pub use voucher::Voucher;

/// Cost of Argon2id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KdfCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for KdfCost {
    /// The second recommended choice of RFC 9106, section 4.
    fn default() -> Self {
        Self { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

/// One way to unlock the secrets: the master key and what later data epochs added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum KeySlot {
    /// By a passphrase.
    Passphrase {
        /// For people.
        label: String,
        /// When it was added, RFC 3339.
        created: String,
        /// Cost of the key derivation.
        kdf: KdfCost,
        /// Random salt, base64.
        salt: String,
        /// Nonce and sealed secrets, base64.
        wrapped: String,
        /// The last data epoch whose secret it has; for people, the sealed ones decide.
        #[serde(default, skip_serializing_if = "is_first")]
        epoch: u32,
        /// Shows that somebody who had the secrets made the slot as it is, base64. Missing in
        /// slots of earlier programs.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        voucher: String,
    },
    /// By the private key of a recipient.
    Recipient {
        /// For people.
        label: String,
        /// When it was added, RFC 3339.
        created: String,
        /// The recipient's X25519 public key, base64.
        public: String,
        /// The ephemeral X25519 public key, base64.
        ephemeral: String,
        /// Nonce and sealed secrets, base64.
        wrapped: String,
        /// The last data epoch whose secret it has; for people, the sealed ones decide.
        #[serde(default, skip_serializing_if = "is_first")]
        epoch: u32,
        /// Shows that the public key was put there by somebody who had the secrets, base64.
        /// Missing in slots of format 1.0.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        tag: String,
        /// Shows that somebody who had the secrets made the slot as it is, base64. Missing in
        /// slots of earlier programs.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        voucher: String,
    },
    /// By nobody: the master key in clear, base64.
    Open {
        /// For people.
        label: String,
        /// When it was added, RFC 3339.
        created: String,
        /// The master key.
        key: String,
    },
}

fn is_first(epoch: &u32) -> bool {
    *epoch == 0
}

const PASSPHRASE: &[u8] = b"passphrase";
const RECIPIENT: &[u8] = b"recipient";

fn aad(repository: RepositoryId, kind: &[u8]) -> Vec<u8> {
    [b"sluice v1 key slot".as_slice(), &repository.0, kind].concat()
}

/// What the tag of a recipient's slot covers.
fn tagged(repository: RepositoryId, public: &[u8; 32]) -> Vec<u8> {
    [RECIPIENT, &repository.0, public].concat()
}

/// Length of the master key and of each epoch's secret in bytes.
const SECRET: usize = 32;
/// Text of the longest field: all secrets there can be, with nonce and tag, in base64.
const MAX_FIELD: usize = (SECRET * (MAX_EPOCHS + 1) + 64) / 3 * 4;

fn wrap(key: &[u8; 32], nonce: [u8; NONCE_LEN], aad: &[u8], secrets: &Secrets) -> String {
    let later = secrets.epochs.iter().map(|secret| secret.0.as_slice());
    let all: Vec<&[u8]> = [secrets.master.0.as_slice()].into_iter().chain(later).collect();
    let mut sealed = Zeroizing::new(all.concat());
    let tag = SealKey::new(key).seal(nonce, aad, &mut sealed);
    BASE64.encode(&[nonce.as_slice(), &sealed, &tag].concat())
}

fn unwrap(key: &[u8; 32], aad: &[u8], wrapped: &str) -> Parsed<Option<Secrets>> {
    let bytes = base64(wrapped)?;
    let Some((nonce, sealed)) = bytes.split_first_chunk::<NONCE_LEN>() else {
        return Err(FormatError::Invalid("wrapped key is too short"));
    };
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let Some(opened) = SealKey::new(key).open(*nonce, aad, &mut sealed) else { return Ok(None) };
    let (all, rest) = opened.as_chunks::<SECRET>();
    match all.split_first() {
        Some((master, later)) if rest.is_empty() => Ok(Some(Secrets {
            master: MasterKey(*master),
            epochs: later.iter().map(|secret| EpochSecret(*secret)).collect(),
        })),
        _ => Err(FormatError::Invalid("wrapped key length")),
    }
}

fn base64(text: &str) -> Parsed<Vec<u8>> {
    if text.len() > MAX_FIELD {
        return Err(FormatError::Invalid("key slot field is too long"));
    }
    BASE64.decode(text.as_bytes()).map_err(|_| FormatError::Invalid("key slot field is not base64"))
}

fn base64_32(text: &str) -> Parsed<[u8; 32]> {
    base64(text)?.try_into().map_err(|_| FormatError::Invalid("key slot field length"))
}

fn stretch(passphrase: &str, salt: &[u8], cost: KdfCost) -> Parsed<Zeroizing<[u8; 32]>> {
    let fits = cost.memory_kib <= 1 << 20 && cost.passes <= 16 && cost.lanes <= 16;
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).ok();
    let params = params.filter(|_| fits).ok_or(FormatError::Invalid("key slot cost"))?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .map_err(|_| FormatError::Invalid("key slot salt"))?;
    Ok(key)
}

/// A recovery key: the private half of a recipient slot.
#[derive(Clone)]
pub struct RecoveryKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecoveryKey(..)")
    }
}

const RECOVERY_PREFIX: &str = "SLUICE-RECOVERY-";

impl RecoveryKey {
    /// A recovery key of these random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(Zeroizing::new(random))
    }

    /// The text to print and keep: groups of letters and digits, with a checksum.
    pub fn to_text(&self) -> Zeroizing<String> {
        let sum = blake3::hash(&*self.0);
        let bytes = Zeroizing::new([self.0.as_slice(), &sum.as_bytes()[..3]].concat());
        let flat = Zeroizing::new(data_encoding::BASE32_NOPAD.encode(&bytes));
        let groups: Vec<&str> =
            (0..flat.len()).step_by(7).map(|at| &flat[at..(at + 7).min(flat.len())]).collect();
        Zeroizing::new(format!("{RECOVERY_PREFIX}{}", groups.join("-")))
    }

    /// Reads the text back; spaces, dashes, and case do not matter.
    ///
    /// # Errors
    /// When it is no recovery key or was mistyped.
    pub fn from_text(text: &str) -> Parsed<Self> {
        let upper = Zeroizing::new(text.trim().to_ascii_uppercase());
        let body = upper.strip_prefix(RECOVERY_PREFIX).unwrap_or(&upper);
        let flat: Zeroizing<String> =
            Zeroizing::new(body.chars().filter(|c| c.is_ascii_alphanumeric()).collect());
        let bytes = data_encoding::BASE32_NOPAD
            .decode(flat.as_bytes())
            .map(Zeroizing::new)
            .map_err(|_| FormatError::Invalid("not a recovery key"))?;
        let Some((key, sum)) = bytes.split_first_chunk::<32>() else {
            return Err(FormatError::Invalid("not a recovery key"));
        };
        if blake3::hash(key).as_bytes()[..3] != *sum {
            return Err(FormatError::Invalid("recovery key is mistyped: its checksum differs"));
        }
        Ok(Self::new(*key))
    }

    fn private(&self) -> Parsed<PrivateKey> {
        PrivateKey::from_private_key(&X25519, &*self.0)
            .map_err(|_| FormatError::Invalid("not an X25519 key"))
    }
}

fn public_of(private: &PrivateKey) -> Parsed<[u8; 32]> {
    let public =
        private.compute_public_key().map_err(|_| FormatError::Invalid("not an X25519 key"))?;
    public.as_ref().try_into().map_err(|_| FormatError::Invalid("X25519 key length"))
}

fn shared(
    private: &PrivateKey,
    peer: &[u8; 32],
    ephemeral: &[u8; 32],
    recipient: &[u8; 32],
) -> Parsed<Zeroizing<[u8; 32]>> {
    let peer = UnparsedPublicKey::new(&X25519, peer);
    let bad = FormatError::Invalid("key agreement failed");
    agreement::agree(private, peer, bad, |secret| {
        let mut hasher = blake3::Hasher::new_derive_key("sluice v1 recipient");
        hasher.update(secret).update(ephemeral).update(recipient);
        Ok(Zeroizing::new(*hasher.finalize().as_bytes()))
    })
}

impl KeySlot {
    /// A slot for a passphrase. `random` is salt (16) and nonce (12).
    ///
    /// # Errors
    /// When the cost is out of range.
    pub fn for_passphrase(
        repository: RepositoryId,
        secrets: &Secrets,
        passphrase: &str,
        kdf: KdfCost,
        random: [u8; 28],
        (label, created): (String, String),
    ) -> Parsed<Self> {
        let (salt, nonce) = random.split_at(16);
        let key = stretch(passphrase, salt, kdf)?;
        let nonce = nonce.try_into().expect("28 - 16 = 12");
        let wrapped = wrap(&key, nonce, &aad(repository, PASSPHRASE), secrets);
        let (salt, epoch) = (BASE64.encode(salt), secrets.epochs.len() as u32);
        let voucher = String::new();
        Ok(Self::Passphrase { label, created, kdf, salt, wrapped, epoch, voucher })
    }

    /// A slot for a recovery key. `random` is an ephemeral private key (32) and nonce (12).
    ///
    /// # Errors
    /// When the key agreement fails.
    pub fn for_recovery(
        repository: RepositoryId,
        secrets: &Secrets,
        recovery: &RecoveryKey,
        random: [u8; 44],
        note: (String, String),
    ) -> Parsed<Self> {
        let public = public_of(&recovery.private()?)?;
        Self::for_recipient(repository, secrets, &public, random, note)
    }

    fn for_recipient(
        repository: RepositoryId,
        secrets: &Secrets,
        public: &[u8; 32],
        random: [u8; 44],
        (label, created): (String, String),
    ) -> Parsed<Self> {
        let (ephemeral, nonce) = random.split_at(32);
        let private = PrivateKey::from_private_key(&X25519, ephemeral)
            .map_err(|_| FormatError::Invalid("not an X25519 key"))?;
        let ephemeral = public_of(&private)?;
        let key = shared(&private, public, &ephemeral, public)?;
        let nonce = nonce.try_into().expect("44 - 32 = 12");
        let wrapped = wrap(&key, nonce, &aad(repository, RECIPIENT), secrets);
        let tag = BASE64.encode(&secrets.vouch(&tagged(repository, public)));
        let (public, ephemeral) = (BASE64.encode(public), BASE64.encode(&ephemeral));
        let (epoch, voucher) = (secrets.epochs.len() as u32, String::new());
        Ok(Self::Recipient { label, created, public, ephemeral, wrapped, epoch, tag, voucher })
    }

    /// Whether the slot is that of a recipient whose public key was put there by somebody who
    /// had these secrets, rather than by whoever can write to the destination. What is wrapped
    /// for it may still be anything; that is for the [voucher](Self::voucher).
    pub fn has_known_recipient(&self, repository: RepositoryId, secrets: &Secrets) -> bool {
        let Self::Recipient { public, tag, .. } = self else { return false };
        let Ok(public) = base64_32(public) else { return false };
        base64(tag).is_ok_and(|tag| tag == secrets.vouch(&tagged(repository, &public)))
    }

    /// What tells a recipient's public key from others, in hex; nothing for other kinds.
    pub fn fingerprint(&self) -> Option<String> {
        let Self::Recipient { public, .. } = self else { return None };
        let hash = blake3::hash(&base64_32(public).ok()?);
        Some(data_encoding::HEXLOWER.encode(&hash.as_bytes()[..8]))
    }

    /// The same recipient with other secrets; nothing for other kinds, which cannot be wrapped
    /// again without their own secret. `random` is as for a recovery key.
    ///
    /// # Errors
    /// When the slot's fields are damaged.
    pub fn rewrapped(
        &self,
        repository: RepositoryId,
        secrets: &Secrets,
        random: [u8; 44],
    ) -> Parsed<Option<Self>> {
        let Self::Recipient { label, created, public, .. } = self else { return Ok(None) };
        let (public, note) = (base64_32(public)?, (label.clone(), created.clone()));
        Self::for_recipient(repository, secrets, &public, random, note).map(Some)
    }

    /// A slot that holds the master key in clear.
    pub fn open(master: &MasterKey, (label, created): (String, String)) -> Self {
        Self::Open { label, created, key: BASE64.encode(&master.0) }
    }

    /// Label, kind and creation time, for listings.
    pub fn describe(&self) -> (&str, &'static str, &str) {
        match self {
            Self::Passphrase { label, created, .. } => (label, "passphrase", created),
            Self::Recipient { label, created, .. } => (label, "recovery", created),
            Self::Open { label, created, .. } => (label, "open", created),
        }
    }

    /// The last data epoch whose secret the slot has.
    pub fn epoch(&self) -> u32 {
        match self {
            Self::Passphrase { epoch, .. } | Self::Recipient { epoch, .. } => *epoch,
            Self::Open { .. } => 0,
        }
    }

    /// The slot, saying that it has the secrets up to this data epoch.
    pub fn with_epoch(mut self, has: u32) -> Self {
        if let Self::Passphrase { epoch, .. } | Self::Recipient { epoch, .. } = &mut self {
            *epoch = has;
        }
        self
    }

    /// The secrets, when this passphrase is the right one and this slot is for passphrases.
    ///
    /// # Errors
    /// When the slot's fields are damaged.
    pub fn unlock(&self, repository: RepositoryId, passphrase: &str) -> Parsed<Option<Secrets>> {
        let Self::Passphrase { kdf, salt, wrapped, .. } = self else { return Ok(None) };
        let key = stretch(passphrase, &base64(salt)?, *kdf)?;
        unwrap(&key, &aad(repository, PASSPHRASE), wrapped)
    }

    /// The secrets, when this is the slot of that recovery key.
    ///
    /// # Errors
    /// When the slot's fields are damaged.
    pub fn recover(
        &self,
        repository: RepositoryId,
        recovery: &RecoveryKey,
    ) -> Parsed<Option<Secrets>> {
        let Self::Recipient { public, ephemeral, wrapped, .. } = self else { return Ok(None) };
        let (public, ephemeral) = (base64_32(public)?, base64_32(ephemeral)?);
        let private = recovery.private()?;
        if public_of(&private)? != public {
            return Ok(None);
        }
        let key = shared(&private, &ephemeral, &ephemeral, &public)?;
        unwrap(&key, &aad(repository, RECIPIENT), wrapped)
    }

    /// The master key of an open slot.
    ///
    /// # Errors
    /// When the slot's fields are damaged.
    pub fn open_key(&self) -> Parsed<Option<MasterKey>> {
        let Self::Open { key, .. } = self else { return Ok(None) };
        base64_32(key).map(|key| Some(MasterKey(key)))
    }

    /// The slot's bytes.
    pub fn encode(&self) -> Vec<u8> {
        with_check(serde_json::to_vec_pretty(self).expect("a key slot is plain JSON"))
    }

    /// Reads a slot.
    ///
    /// # Errors
    /// When the bytes are no key slot.
    pub fn decode(bytes: &[u8]) -> Parsed<Self> {
        serde_json::from_slice(bytes).map_err(|_| FormatError::Invalid("not a key slot"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: KdfCost = KdfCost { memory_kib: 64, passes: 1, lanes: 1 };

    fn note() -> (String, String) {
        ("main".into(), "2026-01-01T00:00:00Z".into())
    }

    #[test]
    fn only_the_right_passphrase_in_the_right_repository_unlocks() {
        let (id, secrets) = (RepositoryId([1; 16]), Secrets::from(MasterKey([7; 32])));
        let slot =
            KeySlot::for_passphrase(id, &secrets, "correct", CHEAP, [3; 28], note()).unwrap();
        let slot = KeySlot::decode(&slot.encode()).unwrap();
        assert_eq!(slot.unlock(id, "correct").unwrap().unwrap().master.0, secrets.master.0);
        assert!(slot.unlock(id, "wrong").unwrap().is_none());
        assert!(slot.unlock(RepositoryId([2; 16]), "correct").unwrap().is_none());
    }

    #[test]
    fn a_recovery_key_survives_print_and_retyping_and_unlocks() {
        let (id, secrets) = (RepositoryId([1; 16]), Secrets::from(MasterKey([7; 32])));
        let recovery = RecoveryKey::new([9; 32]);
        let slot = KeySlot::for_recovery(id, &secrets, &recovery, [3; 44], note()).unwrap();
        let typed = recovery.to_text().to_lowercase().replace('-', " ");
        let retyped = RecoveryKey::from_text(&typed.replace("sluice recovery ", "")).unwrap();
        assert_eq!(slot.recover(id, &retyped).unwrap().unwrap().master.0, secrets.master.0);
        assert!(slot.recover(id, &RecoveryKey::new([8; 32])).unwrap().is_none());
        let mut mistyped = recovery.to_text().to_string();
        let last = mistyped.pop().unwrap();
        mistyped.push(if last == 'A' { 'B' } else { 'A' });
        assert!(RecoveryKey::from_text(&mistyped).is_err());
    }

    #[test]
    fn slots_carry_every_epoch_and_recipients_take_new_ones_without_their_private_key() {
        let id = RepositoryId([1; 16]);
        let mut secrets = Secrets::from(MasterKey([7; 32]));
        let recovery = RecoveryKey::new([9; 32]);
        let first = KeySlot::for_recovery(id, &secrets, &recovery, [3; 44], note()).unwrap();
        secrets.epochs = (0..MAX_EPOCHS).map(|at| EpochSecret([at as u8; 32])).collect();
        let second = first.rewrapped(id, &secrets, [4; 44]).unwrap().unwrap();
        let second = KeySlot::decode(&second.encode()).unwrap();
        assert_eq!((first.epoch(), second.epoch()), (0, MAX_EPOCHS as u32));
        assert_eq!(first.describe(), second.describe());
        let opened = |slot: &KeySlot| slot.recover(id, &recovery).unwrap().unwrap();
        assert!(opened(&first).epochs.is_empty());
        assert_eq!(opened(&second).epochs, secrets.epochs);
        let slot = KeySlot::for_passphrase(id, &secrets, "words", CHEAP, [3; 28], note()).unwrap();
        assert_eq!(slot.unlock(id, "words").unwrap().unwrap().epochs, secrets.epochs);
        assert_eq!(slot.rewrapped(id, &secrets, [4; 44]), Ok(None));
    }

    #[test]
    fn a_public_key_that_a_stranger_put_into_a_slot_is_not_vouched_for() {
        let (id, secrets) = (RepositoryId([1; 16]), Secrets::from(MasterKey([7; 32])));
        let (mine, other) = (RecoveryKey::new([9; 32]), RecoveryKey::new([8; 32]));
        let slot = KeySlot::for_recovery(id, &secrets, &mine, [3; 44], note()).unwrap();
        assert!(slot.has_known_recipient(id, &secrets));
        let strange = Secrets::from(MasterKey([6; 32]));
        let forged = KeySlot::for_recovery(id, &strange, &other, [3; 44], note()).unwrap();
        assert!(!forged.has_known_recipient(id, &secrets));
        assert_ne!(forged.fingerprint(), slot.fingerprint());
        let text = String::from_utf8(slot.encode()).unwrap();
        let KeySlot::Recipient { public, .. } = &slot else { panic!("a recipient") };
        let KeySlot::Recipient { public: theirs, .. } = &forged else { panic!("a recipient") };
        let swapped = KeySlot::decode(text.replace(public, theirs).as_bytes()).unwrap();
        assert!(!swapped.has_known_recipient(id, &secrets));
        let KeySlot::Recipient { tag, .. } = &slot else { panic!("a recipient") };
        let bare = KeySlot::decode(text.replace(tag, "").as_bytes()).unwrap();
        assert!(!bare.has_known_recipient(id, &secrets));
    }

    #[test]
    fn absurd_costs_are_refused_before_memory_is_taken() {
        let huge = KdfCost { memory_kib: u32::MAX, passes: 1, lanes: 1 };
        assert!(stretch("x", &[0; 16], huge).is_err());
    }
}
