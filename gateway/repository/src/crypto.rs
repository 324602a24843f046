//! Keys and sealing (`docs/format/`, section 4).
//!
//! One master key; everything else is derived from it, so that a key for one purpose tells
//! nothing of another. A [`KeyRing`] holds the derived keys of an opened repository.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::header::Kind;
use crate::format::id::{ChainId, Digest, PackId, PackKind};

/// Length of an AEAD tag in bytes.
pub const TAG_LEN: usize = 16;
/// Length of an AEAD nonce in bytes.
pub const NONCE_LEN: usize = 12;

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

/// `N` random bytes.
///
/// # Errors
/// When the system has no randomness.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes)
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
    metadata: [u8; 32],
    data_epoch: [u8; 32],
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
    /// Derives the keys of epoch 0.
    pub fn new(master: &MasterKey) -> Self {
        let of = |context: &str| derive(context, &[&master.0]);
        Self {
            chunk_id: of("sluice v1 chunk id"),
            page_digest: of("sluice v1 page digest"),
            name: of("sluice v1 name"),
            metadata: of("sluice v1 metadata"),
            data_epoch: derive("sluice v1 data epoch", &[&master.0, &0u32.to_le_bytes()]),
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

    /// The key of a pack's slots.
    pub fn pack_key(&self, kind: PackKind, pack: PackId) -> SealKey {
        SealKey::new(&match kind {
            PackKind::Data => derive("sluice v1 data pack", &[&self.data_epoch, &pack.0]),
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
