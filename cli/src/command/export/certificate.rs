//! The certificate of HTTP exports: given, or made once and kept.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sluice_http::{Tls, self_signed};
use zeroize::Zeroizing;

use crate::args::HttpArgs;
use crate::error::usage_error;

/// What to serve with, and where its certificate lies.
pub(crate) struct Served {
    pub(crate) tls: Tls,
    pub(crate) file: PathBuf,
}

/// The certificate that the arguments ask for; none with `--plain`.
pub(crate) fn find(args: &HttpArgs) -> Result<Option<Served>> {
    if args.plain {
        return Ok(None);
    }
    if let (Some(certificate), Some(key)) = (&args.tls_certificate, &args.tls_key) {
        let cannot = |path: &Path| format!("cannot read {}", path.display());
        let chain = std::fs::read(certificate).with_context(|| cannot(certificate))?;
        let key = Zeroizing::new(std::fs::read(key).with_context(|| cannot(key))?);
        let tls = Tls::from_pem(&chain, &key)
            .with_context(|| format!("cannot serve with {}", certificate.display()))?;
        return Ok(Some(Served { tls, file: certificate.clone() }));
    }
    own(&folder()?, &args.listen).map(Some)
}

/// Where certificates made here are kept.
fn folder() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    let state = state.ok_or_else(|| {
        usage_error("there is no HOME to keep a certificate in; give --tls-certificate, or --plain")
    })?;
    Ok(state.join("sluice/http"))
}

/// The certificate for these addresses, made when there is none yet.
fn own(folder: &Path, addresses: &[SocketAddr]) -> Result<Served> {
    let names = names(addresses);
    let stem = names.join("_").replace(':', "-");
    let file = folder.join(format!("{stem}.pem"));
    let key = folder.join(format!("{stem}.key"));
    let cannot = || format!("cannot make a certificate in {}", folder.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(cannot)?;
    if !file.try_exists().with_context(cannot)? {
        let made = self_signed(names).with_context(cannot)?;
        // The certificate last, and only whole: it says that both are there.
        place(folder, &key, made.key.as_bytes()).with_context(cannot)?;
        place(folder, &file, made.certificate.as_bytes()).with_context(cannot)?;
    }
    let cannot = || format!("cannot serve with {}; remove it for a new one", file.display());
    let chain = std::fs::read(&file).with_context(cannot)?;
    let key = Zeroizing::new(std::fs::read(key).with_context(cannot)?);
    let tls = Tls::from_pem(&chain, &key).with_context(cannot)?;
    Ok(Served { tls, file })
}

/// Writes a file for its owner only, under its name once it is whole.
fn place(folder: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let draft = tempfile::Builder::new().prefix(".new-").make_in(folder, |draft| {
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)
    })?;
    let mut file = draft.as_file();
    file.write_all(bytes)?;
    file.sync_all()?;
    draft.persist(path)?;
    Ok(())
}

/// What clients may call the server: the addresses, and this machine's name where all of its
/// addresses are listened on.
fn names(addresses: &[SocketAddr]) -> Vec<String> {
    let mut names = Vec::new();
    for address in addresses {
        if address.ip().is_unspecified() {
            names.extend(own_name());
        } else {
            names.push(address.ip().to_canonical().to_string());
        }
        if address.ip().is_loopback() || address.ip().is_unspecified() {
            names.push("localhost".to_owned());
        }
    }
    names.sort();
    names.dedup();
    names
}

/// The machine's name, if it is one that a certificate can have.
fn own_name() -> Option<String> {
    let system = rustix::system::uname();
    let name = system.nodename().to_str().ok()?.to_ascii_lowercase();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    (!name.is_empty() && name.bytes().all(allowed)).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_certificate_is_made_once_for_the_same_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("a/b");
        let at = |text: &str| own(&folder, &[text.parse().unwrap()]).unwrap();
        let first = at("127.0.0.1:1");
        assert_eq!(at("127.0.0.1:2").tls.fingerprint(), first.tls.fingerprint());
        assert_ne!(at("192.0.2.7:1").tls.fingerprint(), first.tls.fingerprint());
        for file in std::fs::read_dir(&folder).unwrap().flatten() {
            let mode = file.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file:?}");
        }
        let mode = std::fs::metadata(&folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_certificate_has_the_names_that_clients_use() {
        let of = |text: &str| names(&[text.parse().unwrap()]);
        assert_eq!(of("127.0.0.1:1"), ["127.0.0.1", "localhost"]);
        assert_eq!(of("[2001:db8::7]:1"), ["2001:db8::7"]);
        assert!(of("0.0.0.0:1").contains(&"localhost".to_owned()));
    }
}
