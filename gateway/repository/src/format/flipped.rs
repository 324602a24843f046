//! Records with one flipped bit. The seal tells which bit it was, so they can be put right.

use super::header::Kind;
use super::id::RepositoryId;
use super::record::Envelope;
use crate::crypto::KeyRing;

/// Longer records are not tried: the work grows with the square of the length.
const MAX: usize = 8 << 10;

/// The record as it was written, when one bit of it has flipped since; nothing when more is wrong
/// with it, or it is longer than 8 KiB.
pub fn unflipped(
    bytes: &[u8],
    keys: &KeyRing,
    kind: Kind,
    repository: RepositoryId,
    object: &[u8; 16],
) -> Option<Vec<u8>> {
    if bytes.len() > MAX {
        return None;
    }
    let mut tried = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        tried[bit / 8] ^= 1 << (bit % 8);
        let opened = Envelope::parse(&tried)
            .and_then(|envelope| envelope.open(keys, kind, repository, object));
        if opened.is_ok() {
            return Some(tried);
        }
        tried[bit / 8] ^= 1 << (bit % 8);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::header::Header;
    use super::super::record::seal;
    use super::*;
    use crate::crypto::MasterKey;

    #[test]
    fn every_single_bit_is_put_back_and_no_two() {
        let keys = KeyRing::new(&MasterKey([1; 32]));
        let (repository, object) = (RepositoryId([2; 16]), [3; 16]);
        let header = Header { kind: Kind::Pin, repository, object, epoch: 0 };
        let sound = seal(&keys, &header, b"plain", b"body", [4; 12]);
        let put_right = |bytes: &[u8]| unflipped(bytes, &keys, Kind::Pin, repository, &object);
        for bit in 0..sound.len() * 8 {
            let mut bad = sound.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(put_right(&bad).as_ref(), Some(&sound), "bit {bit}");
        }
        let mut worse = sound.clone();
        worse[80] ^= 3;
        assert_eq!(put_right(&worse), None);
        assert_eq!(put_right(&sound[..sound.len() - 1]), None);
        assert_eq!(put_right(&[]), None);
        // What is sound in another place stays foreign here.
        assert_eq!(unflipped(&sound, &keys, Kind::Session, repository, &object), None);
        assert_eq!(unflipped(&vec![0; MAX + 1], &keys, Kind::Pin, repository, &object), None);
    }
}
