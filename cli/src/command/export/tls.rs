//! Encryption as people ask for it.

use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result};
use sluice_nbd::{Encryption, Tls};
use zeroize::Zeroizing;

use crate::args::{TlsArgs, TlsMode};
use crate::error::usage_error;

/// Bytes of a file of certificates or keys.
const LONGEST: u64 = 1 << 20;

/// What was asked for, ready to be used.
pub(super) struct Secrecy {
    pub(super) encryption: Encryption,
    client_ca: bool,
    keys: bool,
}

impl Secrecy {
    pub(super) fn is_required(&self) -> bool {
        matches!(self.encryption, Encryption::Required(_))
    }

    /// Whether nobody gets in without a proof.
    pub(super) fn proves_clients(&self) -> bool {
        self.is_required() && (self.client_ca || self.keys)
    }

    pub(super) fn name(&self) -> &'static str {
        match self.encryption {
            Encryption::Off => "off",
            Encryption::Offered(_) => "on",
            Encryption::Required(_) => "require",
        }
    }

    /// What a URI needs besides, for an example.
    pub(super) fn parameters(&self) -> &'static str {
        if self.keys { "tls-psk-file=FILE" } else { "tls-certificates=FOLDER" }
    }

    /// What stands before the host in a URI, for an example.
    pub(super) fn user(&self) -> &'static str {
        if self.keys { "//USER@" } else { "//" }
    }
}

/// Reads what the options name.
pub(super) fn secrecy(args: &TlsArgs) -> Result<Secrecy> {
    let any = args.tls_certificate.is_some() || args.tls_psk_file.is_some();
    let (client_ca, keys) = (args.tls_client_ca.is_some(), args.tls_psk_file.is_some());
    let encryption = match (args.tls, any) {
        (None | Some(TlsMode::Off), false) => Encryption::Off,
        (Some(TlsMode::Off), true) => {
            return Err(usage_error("--tls off needs neither a certificate nor keys"));
        }
        (Some(TlsMode::On | TlsMode::Require), false) => {
            return Err(usage_error(
                "encryption needs --tls-certificate and --tls-key, or --tls-psk-file",
            ));
        }
        (Some(TlsMode::On), true) => Encryption::Offered(credentials(args)?),
        (None | Some(TlsMode::Require), true) => Encryption::Required(credentials(args)?),
    };
    Ok(Secrecy { encryption, client_ca, keys })
}

fn credentials(args: &TlsArgs) -> Result<Tls> {
    let mut tls = Tls::builder();
    if let (Some(certificate), Some(key)) = (&args.tls_certificate, &args.tls_key) {
        tls = tls.certificate(read(certificate)?.to_vec(), read(key)?);
    }
    if let Some(authorities) = &args.tls_client_ca {
        tls = tls.client_authorities(read(authorities)?.to_vec());
    }
    if let Some(file) = &args.tls_psk_file {
        let bytes = read(file)?;
        let text = str::from_utf8(&bytes)
            .map_err(|_| anyhow::anyhow!("the file of keys {} is no text", file.display()))?;
        tls = tls.keys(text).with_context(|| format!("reading {}", file.display()))?;
    }
    tls.build().context("setting up encryption")
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", path.display()))?;
    if read as u64 > LONGEST {
        anyhow::bail!("{} is too long for certificates or keys", path.display());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(args: &TlsArgs) -> Option<&'static str> {
        secrecy(args).ok().map(|secrecy| secrecy.name())
    }

    #[test]
    fn keys_are_used_unless_told_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.psk");
        std::fs::write(&file, "a:00112233445566778899aabbccddeeff\n").unwrap();
        let with = |tls| TlsArgs { tls, tls_psk_file: Some(file.clone()), ..TlsArgs::default() };
        assert_eq!(named(&with(None)), Some("require"));
        assert_eq!(named(&with(Some(TlsMode::Require))), Some("require"));
        assert_eq!(named(&with(Some(TlsMode::On))), Some("on"));
        assert_eq!(named(&with(Some(TlsMode::Off))), None);
        assert!(secrecy(&with(None)).unwrap().proves_clients());
        assert!(!secrecy(&with(Some(TlsMode::On))).unwrap().proves_clients());
        let without = |tls| TlsArgs { tls, ..TlsArgs::default() };
        assert_eq!(named(&without(None)), Some("off"));
        assert_eq!(named(&without(Some(TlsMode::Off))), Some("off"));
        assert_eq!(named(&without(Some(TlsMode::On))), None);
        assert_eq!(named(&without(Some(TlsMode::Require))), None);
    }
}
