//! Opening slots: AEAD, decompression, and the id of the plaintext.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use sluice_block::{Pool as Buffers, PoolBuffer};
use zstd::bulk::Decompressor;

use crate::crypto::{KeyRing, SealKey, TAG_LEN};
use crate::error::{RepositoryError, Result};
use crate::format::MAX_BLOCK;
use crate::format::id::{PackId, PackKind, pack_key};
use crate::format::pack::{Codec, header_kind, slot_aad, slot_nonce};
use crate::format::page::{Entry, Location, MAX_PAGE, Page};
use crate::repository::parse_error;

/// Keys and scratch space for decoding the slots of one pack.
#[derive(Debug)]
pub struct SlotDecoder {
    kind: PackKind,
    pack: PackId,
    /// Of the likeliest epoch.
    key: (u32, SealKey),
}

thread_local! {
    static SCRATCH: RefCell<(Vec<u8>, Option<Decompressor<'static>>)> =
        const { RefCell::new((Vec::new(), None)) };
}

impl SlotDecoder {
    /// A decoder for the slots of this pack.
    pub fn new(keys: &KeyRing, kind: PackKind, pack: PackId) -> Self {
        let epoch = keys.epochs(kind, pack)[0];
        Self { kind, pack, key: (epoch, keys.pack_key(kind, pack, epoch)) }
    }

    /// Decrypts a slot into `payload`, which has its length; nothing when it was sealed under
    /// no known epoch.
    fn unseal(
        &self,
        keys: &KeyRing,
        location: &Location,
        stored: &[u8],
        payload: &mut [u8],
    ) -> Option<()> {
        let aad = slot_aad(header_kind(self.kind), self.pack, location.slot, location.codec);
        let nonce = slot_nonce(location.slot);
        let (first, key) = &self.key;
        if key.open_into(nonce, &aad, stored, payload).is_some() {
            return Some(());
        }
        let others = keys.epochs(self.kind, self.pack).into_iter().filter(|one| one != first);
        others.into_iter().find_map(|epoch| {
            let key = keys.pack_key(self.kind, self.pack, epoch);
            key.open_into(nonce, &aad, stored, payload)?;
            keys.remember(self.pack, epoch);
            Some(())
        })
    }

    /// Opens a stored slot into `out`, which gets exactly its content. The content is
    /// authenticated but not yet compared with an id.
    pub(crate) fn open(
        &self,
        keys: &KeyRing,
        location: &Location,
        stored: &[u8],
        out: &mut Vec<u8>,
        most: usize,
    ) -> Result<()> {
        if location.codec == Codec::Raw {
            out.resize(self.payload_len(location, stored)?.min(most + 1), 0);
            return self.open_exact(keys, location, stored, out, most).map(drop);
        }
        self.compressed(keys, location, stored, most, |decompressor, payload, size| {
            out.clear();
            out.reserve_exact(size);
            decompressor.decompress_to_buffer(payload, out)
        })?;
        Ok(())
    }

    /// Opens a chunk into memory of the pool, and verifies its id.
    pub(super) fn chunk_in(
        &self,
        keys: &KeyRing,
        entry: &Entry,
        stored: &[u8],
        buffers: &Arc<Buffers>,
    ) -> Result<PoolBuffer> {
        let (location, most) = (&entry.location, MAX_BLOCK as usize);
        let out = if location.codec == Codec::Raw {
            let mut out = buffers.take(self.payload_len(location, stored)?.min(most + 1));
            self.open_exact(keys, location, stored, &mut out, most)?;
            out
        } else {
            let mut opened = None;
            self.compressed(keys, location, stored, most, |decompressor, payload, size| {
                let out = opened.insert(buffers.take(size));
                let length = decompressor.decompress_to_buffer(payload, &mut **out)?;
                out.truncate(length);
                Ok(length)
            })?;
            opened.ok_or_else(|| self.damaged(location, "it does not decompress"))?
        };
        self.check_id(keys, entry, &out)?;
        Ok(out)
    }

    /// Opens a stored slot into the beginning of `out`, and says how long its content is.
    fn open_exact(
        &self,
        keys: &KeyRing,
        location: &Location,
        stored: &[u8],
        out: &mut [u8],
        most: usize,
    ) -> Result<usize> {
        let most = most.min(out.len());
        if location.codec != Codec::Raw {
            return self.compressed(keys, location, stored, most, |decompressor, payload, _| {
                decompressor.decompress_to_buffer(payload, out)
            });
        }
        let length = self.payload_len(location, stored)?;
        if length > most {
            return Err(self.damaged(location, "it is longer than it may be"));
        }
        let opened = self.unseal(keys, location, stored, &mut out[..length]);
        opened.ok_or_else(|| self.damaged(location, "it fails authentication"))?;
        Ok(length)
    }

    /// Decrypts a compressed slot and has `work` decompress it, which it says how long to become.
    fn compressed(
        &self,
        keys: &KeyRing,
        location: &Location,
        stored: &[u8],
        most: usize,
        work: impl FnOnce(&mut Decompressor<'static>, &[u8], usize) -> io::Result<usize>,
    ) -> Result<usize> {
        let length = self.payload_len(location, stored)?;
        SCRATCH.with_borrow_mut(|(scratch, decompressor)| {
            scratch.resize(length.max(scratch.len()), 0);
            let payload = &mut scratch[..length];
            let opened = self.unseal(keys, location, stored, payload);
            opened.ok_or_else(|| self.damaged(location, "it fails authentication"))?;
            // Frames say their size; a chunk must not take the memory of the largest.
            let size = zstd::zstd_safe::get_frame_content_size(payload);
            let size = size.ok().flatten().filter(|size| *size <= most as u64);
            let size = size.ok_or_else(|| self.damaged(location, "its size is out of range"))?;
            let decompressor = match decompressor {
                Some(decompressor) => decompressor,
                none => none.insert(
                    Decompressor::new().map_err(|error| crate::repository::local("zstd", error))?,
                ),
            };
            work(decompressor, payload, size as usize)
                .map_err(|_| self.damaged(location, "it does not decompress"))
        })
    }

    /// Bytes of a stored slot without its tag.
    fn payload_len(&self, location: &Location, stored: &[u8]) -> Result<usize> {
        match stored.len().checked_sub(TAG_LEN) {
            Some(length) if stored.len() == location.stored_len as usize => Ok(length),
            _ => Err(self.damaged(location, "it is cut off")),
        }
    }

    fn damaged(&self, location: &Location, what: &str) -> RepositoryError {
        let key = pack_key(self.kind, self.pack);
        RepositoryError::damaged(format_args!("{key} slot {}", location.slot), what)
    }

    /// Opens a chunk into `out` and verifies its id.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`].
    pub fn chunk(
        &self,
        keys: &KeyRing,
        entry: &Entry,
        stored: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.open(keys, &entry.location, stored, out, MAX_BLOCK as usize)?;
        self.check_id(keys, entry, out)
    }

    /// Opens a chunk of exactly the length of `out` into it and verifies its id.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`]; `out` then holds anything.
    pub fn chunk_into(
        &self,
        keys: &KeyRing,
        entry: &Entry,
        stored: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        let length = self.open_exact(keys, &entry.location, stored, out, MAX_BLOCK as usize)?;
        if length != out.len() {
            let what = "its chunk has another size than the image's blocks";
            return Err(self.damaged(&entry.location, what));
        }
        self.check_id(keys, entry, out)
    }

    fn check_id(&self, keys: &KeyRing, entry: &Entry, content: &[u8]) -> Result<()> {
        if keys.chunk_id(content)[..16] == entry.id.0 {
            return Ok(());
        }
        Err(self.damaged(&entry.location, "its content is not what the block map says"))
    }

    /// Opens a page and verifies its digest.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`].
    pub fn page(
        &self,
        keys: &KeyRing,
        entry: &Entry,
        stored: &[u8],
        level: u8,
        block_size: u32,
    ) -> Result<Page> {
        let mut bytes = Vec::new();
        self.open(keys, &entry.location, stored, &mut bytes, MAX_PAGE)?;
        let key = pack_key(self.kind, self.pack);
        let name = format!("{key} slot {}", entry.location.slot);
        let page = Page::decode(&bytes).map_err(|error| parse_error(&name, error))?;
        if page.level() != level || page.digest(keys, block_size) != entry.id {
            return Err(RepositoryError::damaged(name, "its digest differs"));
        }
        Ok(page)
    }
}
