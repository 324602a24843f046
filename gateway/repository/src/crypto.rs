//! Keys and sealing (`docs/format/`, section 4).
//!
//! One master key; everything else is derived from it, so that a key for one purpose tells
//! nothing of another. The exception is the content of blocks: from the second *data epoch* on
//! its key comes from a secret of its own, which the master key does not give away. A
//! [`KeyRing`] holds the derived keys of an opened repository.

use std::collections::HashMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use parking_lot::Mutex;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::header::Kind;
use crate::format::id::{ChainId, Digest, PackId, PackKind, PointId, RepositoryId, SessionId};

/// Length of an AEAD tag in bytes.
pub const TAG_LEN: usize = 16;
/// Length of an AEAD nonce in bytes.
pub const NONCE_LEN: usize = 12;
/// Data epochs a repository can have besides the first.
pub const MAX_EPOCHS: usize = 255;
/// Sessions whose epoch is remembered: more than a reader meets at a time.
const REMEMBERED: usize = 4096;

/// The 32 bytes everything else is derived from.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey(pub(crate) [u8; 32]);

impl MasterKey {
    /// A new random master key.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Self> {
        Ok(Self(random()?))
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// The secret of a data epoch after the first.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct EpochSecret(pub(crate) [u8; 32]);

impl EpochSecret {
    /// A new random secret.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Self> {
        Ok(Self(random()?))
    }

    /// What tells this secret from another one without giving it away.
    pub fn check(&self) -> [u8; 16] {
        first16(&derive("sluice v1 epoch check", &[&self.0]))
    }
}

impl std::fmt::Debug for EpochSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EpochSecret(..)")
    }
}

/// All that a key slot guards.
#[derive(Debug, Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secrets {
    /// Gives everything but the content of blocks written under later epochs.
    pub master: MasterKey,
    /// Those of epochs 1, 2, and so on; epoch 0 comes from the master key.
    pub epochs: Vec<EpochSecret>,
}

impl Secrets {
    /// Those of a new repository.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Self> {
        Ok(Self::from(MasterKey::generate()?))
    }

    /// Shows that whoever holds all of these secrets has written `message` into a key slot.
    pub fn vouch(&self, message: &[u8]) -> [u8; 16] {
        self.tag("sluice v1 key slot tag", self.epochs.len(), message)
    }

    /// Shows that whoever holds these secrets up to `epoch` has made a whole key slot. Nothing
    /// when those of the epoch are not known.
    pub fn vouch_for_slot(&self, epoch: u32, slot: &[u8]) -> Option<[u8; 16]> {
        let epochs = epoch as usize;
        (epochs <= self.epochs.len()).then(|| self.tag("sluice v1 key slot voucher", epochs, slot))
    }

    fn tag(&self, context: &str, epochs: usize, message: &[u8]) -> [u8; 16] {
        let all = [self.master.0.as_slice()].into_iter();
        let later = self.epochs.iter().take(epochs).map(|one| one.0.as_slice());
        let key = derive(context, &all.chain(later).collect::<Vec<_>>());
        first16(blake3::keyed_hash(&key, message).as_bytes())
    }

    /// The checks of all epochs after the first.
    pub fn checks(&self) -> Vec<[u8; 16]> {
        self.epochs.iter().map(EpochSecret::check).collect()
    }

    /// Whether these are the secrets that belong to `checks`, and perhaps later ones.
    pub fn fit(&self, checks: &[[u8; 16]]) -> bool {
        self.epochs.len() >= checks.len()
            && self.epochs.iter().zip(checks).all(|(secret, check)| secret.check() == *check)
    }
}

impl From<MasterKey> for Secrets {
    fn from(master: MasterKey) -> Self {
        Self { master, epochs: Vec::new() }
    }
}

/// `N` random bytes.
///
/// # Errors
/// When the system has no randomness.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    // The kernel's own: a generator of a library's gathers entropy first, for tens of milliseconds.
    getrandom::fill(&mut bytes)
        .map_err(|_| RepositoryError::new(ErrorKind::Local, "the system gives no random bytes"))?;
    Ok(bytes)
}

/// A 256-bit AEAD key.
pub struct SealKey(LessSafeKey);

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey(..)")
    }
}

impl SealKey {
    /// A key of these bytes.
    pub fn new(bytes: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("32 bytes are an AES-256 key");
        Self(LessSafeKey::new(key))
    }

    /// Encrypts `buf` in place and returns the tag.
    pub fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], buf: &mut [u8]) -> [u8; TAG_LEN] {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(aad), buf)
            .expect("sealing fails only beyond 64 GiB");
        let mut bytes = [0; TAG_LEN];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    /// Decrypts and verifies `buf` (ciphertext and tag) in place; returns the plaintext, or
    /// nothing when it was not sealed so.
    pub fn open<'b>(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        buf: &'b mut [u8],
    ) -> Option<&'b mut [u8]> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.open_in_place(nonce, Aad::from(aad), buf).ok()
    }

    /// Decrypts and verifies `sealed` (ciphertext and tag) into `out`, which must be as long as
    /// the ciphertext; nothing when it was not sealed so. `out` then holds no plaintext.
    pub fn open_into(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Option<()> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let (ciphertext, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG_LEN)?)?;
        let opened = self.0.open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, out);
        if opened.is_err() {
            out.fill(0);
        }
        opened.ok()
    }
}

/// The derived keys of an opened repository.
#[derive(ZeroizeOnDrop)]
pub struct KeyRing {
    chunk_id: [u8; 32],
    page_digest: [u8; 32],
    name: [u8; 32],
    copy: [u8; 32],
    metadata: [u8; 32],
    /// Of each epoch that is known.
    data: Vec<[u8; 32]>,
    /// The epoch under which packs are written.
    epoch: u32,
    /// Under which epoch a session wrote its packs, where a reader has found out.
    #[zeroize(skip)]
    found: Mutex<HashMap<SessionId, u32>>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyRing(..)")
    }
}

fn derive(context: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

impl KeyRing {
    /// Derives the keys of a repository with one data epoch.
    pub fn new(master: &MasterKey) -> Self {
        Self::of(&Secrets::from(master.clone()), 0)
    }

    /// Derives the keys. Packs are written under `epoch`; those of every epoch whose secret is
    /// known can be read.
    pub fn of(secrets: &Secrets, epoch: u32) -> Self {
        let master = &secrets.master;
        let of = |context: &str| derive(context, &[&master.0]);
        let first = derive("sluice v1 data epoch", &[&master.0, &0u32.to_le_bytes()]);
        let later = (1u32..).zip(&secrets.epochs).map(|(number, secret)| {
            derive("sluice v1 data epoch", &[&secret.0, &number.to_le_bytes()])
        });
        let data: Vec<[u8; 32]> = [first].into_iter().chain(later).collect();
        Self {
            chunk_id: of("sluice v1 chunk id"),
            page_digest: of("sluice v1 page digest"),
            name: of("sluice v1 name"),
            copy: of("sluice v1 copy"),
            metadata: of("sluice v1 metadata"),
            epoch: epoch.min(data.len() as u32 - 1),
            data,
            found: Mutex::default(),
        }
    }

    /// The id of a chunk: keyed BLAKE3 of its content.
    pub fn chunk_id(&self, content: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.chunk_id, content).as_bytes()
    }

    /// A hasher for page and root digests.
    pub fn page_hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.page_digest)
    }

    /// The chain of an instance.
    pub fn chain(&self, instance: &str) -> ChainId {
        let hash = blake3::keyed_hash(&self.name, instance.as_bytes());
        ChainId(first16(hash.as_bytes()))
    }

    /// What the id of a copy of this point of another repository has behind its time: a tag that
    /// tells of which point, and a check that tells that it is a tag.
    pub fn copy_tag(&self, repository: RepositoryId, point: PointId) -> [u8; 10] {
        let origin = [repository.0, point.0].concat();
        let mut tag = [0; 10];
        tag[..8].copy_from_slice(&blake3::keyed_hash(&self.copy, &origin).as_bytes()[..8]);
        let check = self.copy_check(&tag[..8]);
        tag[8..].copy_from_slice(&check);
        tag
    }

    /// Whether the id of a point is one of a copy.
    pub fn is_copy(&self, point: PointId) -> bool {
        point.0[14..] == self.copy_check(&point.0[6..14])
    }

    fn copy_check(&self, tag: &[u8]) -> [u8; 2] {
        let hash = blake3::keyed_hash(&self.copy, tag);
        [hash.as_bytes()[0], hash.as_bytes()[1]]
    }

    /// The epoch under which packs of this kind are written.
    pub fn epoch(&self, kind: PackKind) -> u32 {
        match kind {
            PackKind::Data => self.epoch,
            PackKind::Meta => 0,
        }
    }

    /// The epochs under which a pack may have been written, the likeliest first.
    pub fn epochs(&self, kind: PackKind, pack: PackId) -> Vec<u32> {
        let known = self.data.len() as u32;
        if kind == PackKind::Meta || known == 1 {
            return vec![0];
        }
        let found = self.found.lock().get(&pack.session()).copied();
        let others = (0..known).rev().filter(|epoch| Some(*epoch) != found);
        found.into_iter().chain(others).collect()
    }

    /// Remembers the epoch of the session that wrote this pack. All its packs have the same.
    pub fn remember(&self, pack: PackId, epoch: u32) {
        let mut found = self.found.lock();
        if found.len() >= REMEMBERED {
            found.clear();
        }
        found.insert(pack.session(), epoch);
    }

    /// The key of a pack's slots under one of [`epochs`](Self::epochs).
    ///
    /// # Panics
    /// When the epoch is none of those.
    pub fn pack_key(&self, kind: PackKind, pack: PackId, epoch: u32) -> SealKey {
        SealKey::new(&match kind {
            PackKind::Data => derive("sluice v1 data pack", &[&self.data[epoch as usize], &pack.0]),
            PackKind::Meta => derive("sluice v1 meta pack", &[&self.metadata, &pack.0]),
        })
    }

    /// The key of a pack's table.
    pub fn table_key(&self, kind: Kind, pack: PackId) -> SealKey {
        let kind = (kind as u16).to_le_bytes();
        SealKey::new(&derive("sluice v1 pack table", &[&self.metadata, &kind, &pack.0]))
    }

    /// The key of a record's sealed part.
    pub fn record_key(&self, kind: Kind, object: &[u8; 16]) -> SealKey {
        let kind = (kind as u16).to_le_bytes();
        SealKey::new(&derive("sluice v1 record", &[&self.metadata, &kind, object]))
    }
}

/// The first 16 bytes of a hash.
pub fn first16(hash: &[u8; 32]) -> [u8; 16] {
    let mut first = [0; 16];
    first.copy_from_slice(&hash[..16]);
    first
}

/// The first 16 bytes of a hash as a digest.
pub fn digest16(hash: &[u8; 32]) -> Digest {
    Digest(first16(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(epochs: &[u8]) -> Secrets {
        let epochs = epochs.iter().map(|byte| EpochSecret([*byte; 32])).collect();
        Secrets { master: MasterKey([1; 32]), epochs }
    }

    #[test]
    fn a_later_epoch_changes_the_key_of_chunks_and_nothing_else() {
        let (old, new) = (KeyRing::new(&MasterKey([1; 32])), KeyRing::of(&secrets(&[7]), 1));
        assert_eq!(old.chunk_id(b"x"), new.chunk_id(b"x"));
        assert_eq!(old.chain("x"), new.chain("x"));
        assert_eq!(old.metadata, new.metadata);
        assert_eq!((old.data[0], new.data.len()), (new.data[0], 2));
        assert_ne!(new.data[0], new.data[1]);
        // The epoch's key does not come from the master key.
        let mut other = secrets(&[7]);
        other.master = MasterKey([2; 32]);
        assert_eq!(KeyRing::of(&other, 1).data[1], new.data[1]);
        assert_ne!(KeyRing::of(&secrets(&[8]), 1).data[1], new.data[1]);
    }

    #[test]
    fn the_newest_epoch_is_tried_first_until_another_was_found() {
        let keys = KeyRing::of(&secrets(&[7, 8]), 2);
        let pack = PackId::new(SessionId([4; 12]), 0);
        assert_eq!(keys.epochs(PackKind::Data, pack), [2, 1, 0]);
        keys.remember(pack, 0);
        let next = PackId::new(SessionId([4; 12]), 9);
        assert_eq!(keys.epochs(PackKind::Data, next), [0, 2, 1]);
        assert_eq!(keys.epochs(PackKind::Meta, next), [0]);
        let stranger = PackId::new(SessionId([5; 12]), 0);
        assert_eq!(keys.epochs(PackKind::Data, stranger), [2, 1, 0]);
    }

    #[test]
    fn secrets_fit_the_checks_they_were_made_for() {
        let both = secrets(&[7, 8]);
        let checks = both.checks();
        assert!(both.fit(&checks) && both.fit(&checks[..1]) && both.fit(&[]));
        assert!(!secrets(&[7]).fit(&checks), "one is missing");
        assert!(!secrets(&[7, 9]).fit(&checks), "one is another");
    }
}
