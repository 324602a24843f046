//! Secrets at rest: AES-256-GCM with a key in a file beside, not in, the database.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use data_encoding::{BASE64, HEXLOWER};
use zeroize::Zeroizing;

use crate::error::{CatalogError, ErrorKind, Result};

/// Text that only the key's owner can read: Base64 of nonce and ciphertext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed(pub(crate) String);

/// Seals and opens secrets.
pub struct Sealer(RandomizedNonceKey);

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// With a key of 32 bytes.
    pub fn new(key: &[u8; 32]) -> Self {
        // The only condition is the length.
        Self(RandomizedNonceKey::new(&AES_256_GCM, key).expect("a key of 32 bytes fits"))
    }

    /// With the key in a file; a new one is made where there is none, for its owner only.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the file is not a key, [`ErrorKind::Unavailable`] when it
    /// cannot be read or written.
    pub fn from_file(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| {
            let text = format!("cannot use the key file {}", path.display());
            CatalogError::new(ErrorKind::Unavailable, text).with_source(error)
        };
        let mut options = OpenOptions::new();
        match options.write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut file) => {
                let key = Zeroizing::new(rand::random::<[u8; 32]>());
                let line = Zeroizing::new(HEXLOWER.encode(&*key) + "\n");
                file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
                Ok(Self::new(&key))
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let mut text = Zeroizing::new(String::new());
                let file = std::fs::File::open(path).map_err(failed)?;
                file.take(1 << 10).read_to_string(&mut text).map_err(failed)?;
                let key = HEXLOWER.decode(text.trim().as_bytes()).map(Zeroizing::new);
                let key = key.ok().and_then(|key| <[u8; 32]>::try_from(key.as_slice()).ok());
                let text = format!("{} is not a key of 64 hexadecimal digits", path.display());
                key.map(|key| Self::new(&key)).ok_or_else(|| CatalogError::invalid(text))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Seals `secret`, which belongs to `owner` and can be opened only for it.
    pub fn seal(&self, owner: &str, secret: &str) -> Sealed {
        let mut bytes = secret.as_bytes().to_vec();
        // Fails only beyond 64 GiB or without randomness, without which nothing here works.
        let nonce = self.0.seal_in_place_append_tag(Aad::from(owner.as_bytes()), &mut bytes);
        let nonce = nonce.expect("a secret can be sealed");
        let mut whole = nonce.as_ref().to_vec();
        whole.append(&mut bytes);
        Sealed(BASE64.encode(&whole))
    }

    /// Opens what was sealed for `owner`.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] when it was sealed with another key or for another owner.
    pub fn open(&self, owner: &str, sealed: &Sealed) -> Result<Zeroizing<String>> {
        let bad = || {
            let text = "a secret cannot be opened: the key file is not the one it was sealed with";
            CatalogError::new(ErrorKind::Damaged, text)
        };
        let mut bytes = BASE64.decode(sealed.0.as_bytes()).map_err(|_| bad())?;
        let (nonce, rest) = bytes.split_at_mut_checked(NONCE_LEN).ok_or_else(bad)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| bad())?;
        let clear = self.0.open_in_place(nonce, Aad::from(owner.as_bytes()), rest);
        let clear = Zeroizing::new(clear.map_err(|_| bad())?.to_vec());
        std::str::from_utf8(&clear).map(|text| Zeroizing::new(text.to_owned())).map_err(|_| bad())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_opens_with_its_key_and_for_its_owner_only() {
        let sealer = Sealer::new(&[1; 32]);
        let sealed = sealer.seal("a", "hush");
        assert!(!sealed.0.contains("hush"));
        assert_eq!(*sealer.open("a", &sealed).unwrap(), "hush");
        assert!(sealer.open("b", &sealed).is_err());
        assert!(Sealer::new(&[2; 32]).open("a", &sealed).is_err());
        assert_ne!(sealer.seal("a", "hush"), sealed, "no nonce twice");
        assert!(sealer.open("a", &Sealed("AAAA".into())).is_err());
    }

    #[test]
    fn the_key_file_is_private_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let sealed = Sealer::from_file(&path).unwrap().seal("a", "hush");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(*Sealer::from_file(&path).unwrap().open("a", &sealed).unwrap(), "hush");
        std::fs::write(&path, "short").unwrap();
        assert_eq!(Sealer::from_file(&path).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
