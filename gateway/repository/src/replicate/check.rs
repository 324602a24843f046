//! Judging objects without keys: packs by their footer's hash, records by their layout.

use bytes::Bytes;

use super::listing::PackName;
use crate::format::header::{Header, Kind};
use crate::format::id::{ChainId, PointId, RepositoryId};
use crate::format::manifest::CommitPlain;
use crate::format::pack::{FOOTER_LEN, Footer, header_kind};
use crate::format::record::{Envelope, from_cbor};
use crate::format::{FormatError, Parsed};

/// Whether these are all bytes of this pack, unchanged since they were written. Returns the
/// footer. Takes as long as hashing does.
pub(crate) fn pack(bytes: &Bytes, repository: RepositoryId, name: PackName) -> Parsed<Footer> {
    let header = Header::decode(bytes)?;
    let (kind, pack) = name;
    if header.kind != header_kind(kind) || header.repository != repository {
        return Err(FormatError::Invalid("it belongs to another place"));
    }
    if header.object != pack.0 {
        return Err(FormatError::Invalid("it is another pack"));
    }
    let footer = Footer::decode(bytes)?;
    if footer.pack_len() != bytes.len() as u64 {
        return Err(FormatError::Invalid("its length is not what its footer says"));
    }
    if *blake3::hash(&bytes[..bytes.len() - FOOTER_LEN]).as_bytes() != footer.hash {
        return Err(FormatError::Invalid("its bytes differ from its hash"));
    }
    Ok(footer)
}

/// The plain part of a commit record, as far as it can be believed without a key; nothing for an
/// ABORT.
pub(crate) fn commit(
    bytes: &[u8],
    repository: RepositoryId,
    chain: ChainId,
    point: PointId,
) -> Parsed<Option<CommitPlain>> {
    let envelope = Envelope::parse(bytes)?;
    let header = envelope.header;
    if header.repository != repository || header.object != point.0 {
        return Err(FormatError::Invalid("record belongs to another place"));
    }
    match header.kind {
        Kind::Abort => Ok(None),
        Kind::Commit => {
            let plain: CommitPlain = from_cbor(envelope.plain)?;
            if plain.chain != chain || plain.point != point {
                return Err(FormatError::Invalid("record belongs to another chain"));
            }
            Ok(Some(plain))
        }
        _ => Err(FormatError::Invalid("record is of another kind")),
    }
}

/// Whether a record has the layout of this kind and belongs to the repository.
pub(crate) fn record(bytes: &[u8], repository: RepositoryId, kind: Kind) -> Parsed<()> {
    let header = Envelope::parse(bytes)?.header;
    if header.repository == repository && header.kind == kind {
        Ok(())
    } else {
        Err(FormatError::Invalid("record belongs to another place"))
    }
}

/// The same, for a record that says in its header which object it is.
pub(crate) fn object(
    bytes: &[u8],
    repository: RepositoryId,
    kind: Kind,
    object: [u8; 16],
) -> Parsed<()> {
    record(bytes, repository, kind)?;
    if Envelope::parse(bytes)?.header.object == object {
        Ok(())
    } else {
        Err(FormatError::Invalid("record belongs to another object"))
    }
}
