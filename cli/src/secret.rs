//! Passphrases and recovery keys: from a file, the environment, or the terminal. They are never
//! arguments, never logged, and wiped from memory after use.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use sluice_repository::RecoveryKey;
use zeroize::Zeroizing;

use crate::error::{advise, usage_error};

/// A secret is not longer than this.
const LONGEST: u64 = 64 << 10;
const FILE: &str = "SLUICE_PASSPHRASE_FILE";
const VARIABLE: &str = "SLUICE_PASSPHRASE";

/// The passphrase of an existing repository.
pub(crate) fn passphrase() -> Result<Zeroizing<String>> {
    match from_environment()? {
        Some(passphrase) => Ok(passphrase),
        None => ask("Passphrase: "),
    }
}

/// Whether a passphrase is given, so that nobody need be asked.
pub(crate) fn is_given() -> bool {
    [FILE, VARIABLE].iter().any(|name| std::env::var_os(name).is_some_and(|set| !set.is_empty()))
}

/// Why a repository that says it is not encrypted is refused where a passphrase is given: whoever
/// can write to the destination can say so, and what is stored then would be for them to read.
pub(crate) fn not_needed(destination: &dyn sluice_destination::Destination) -> anyhow::Error {
    let place = destination.location();
    advise(
        "wrong-key",
        format!("{place} says that it is not encrypted, and a passphrase is given"),
        format!(
            "give none (unset {FILE} and {VARIABLE}) if it was made without encryption; if it was \
             not, somebody has changed its object `format`: do not back up to it"
        ),
    )
}

/// The passphrase of the other one of two repositories, in a variable.
pub(crate) fn other_passphrase() -> Option<Zeroizing<String>> {
    let set = std::env::var("SLUICE_DEST_PASSPHRASE").ok().filter(|secret| !secret.is_empty());
    set.map(Zeroizing::new)
}

/// The passphrase in a file.
pub(crate) fn passphrase_in(file: &Path) -> Result<Zeroizing<String>> {
    first_line(file)
}

/// The passphrase of a new repository; asked for twice.
pub(crate) fn new_passphrase() -> Result<Zeroizing<String>> {
    match from_environment()? {
        Some(passphrase) => Ok(passphrase),
        None => ask_twice(),
    }
}

/// A passphrase to add: from the file, or asked for twice.
pub(crate) fn added_passphrase(file: Option<&Path>) -> Result<Zeroizing<String>> {
    file.map_or_else(ask_twice, first_line)
}

fn from_environment() -> Result<Option<Zeroizing<String>>> {
    if let Some(path) = std::env::var_os(FILE).filter(|path| !path.is_empty()) {
        return first_line(Path::new(&path)).map(Some);
    }
    match std::env::var(VARIABLE) {
        Ok(text) => {
            let text = Zeroizing::new(text);
            not_empty(&text, VARIABLE)?;
            Ok(Some(text))
        }
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(advise("wrong-key", format!("{VARIABLE} is not UTF-8"), "use a passphrase of text"))
        }
    }
}

/// A secret of CHAP: the first line of a file.
pub(crate) fn chap_secret(path: &Path) -> Result<Zeroizing<String>> {
    let text = read(path)
        .with_context(|| format!("cannot read the CHAP secret from {}", path.display()))?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

/// A secret of CHAP in the environment, where a node puts it for a mount.
pub(crate) fn chap_variable() -> Result<Zeroizing<String>> {
    let set = std::env::var("SLUICE_CHAP_SECRET").ok().filter(|secret| !secret.is_empty());
    set.map(Zeroizing::new).ok_or_else(|| {
        usage_error("--chap-user needs --chap-secret-file, or the variable SLUICE_CHAP_SECRET")
    })
}

/// A token of HTTP exports: the first line of a file.
pub(crate) fn token(path: &Path) -> Result<Zeroizing<String>> {
    let text =
        read(path).with_context(|| format!("cannot read the token from {}", path.display()))?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

/// A token of HTTP exports in the environment, where a node puts it for a mount.
pub(crate) fn http_token_variable() -> Option<Zeroizing<String>> {
    std::env::var("SLUICE_HTTP_TOKEN").ok().filter(|token| !token.is_empty()).map(Zeroizing::new)
}

/// A token in a file, or on standard input.
pub(crate) fn token_or_stdin(path: &Path) -> Result<Zeroizing<String>> {
    if path != Path::new("-") {
        return token(path);
    }
    let mut text = Zeroizing::new(String::new());
    std::io::stdin().lock().take(LONGEST).read_to_string(&mut text)?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

/// The password of a user of a server.
pub(crate) fn password() -> Result<Zeroizing<String>> {
    match std::env::var_os("SLUICE_PASSWORD_FILE").filter(|path| !path.is_empty()) {
        Some(path) => first_line(Path::new(&path)),
        None => {
            let typed = rpassword::prompt_password("Password: ");
            typed.map(Zeroizing::new).context("cannot ask for the password on the terminal")
        }
    }
}

/// A new password of a user of a server; asked for twice.
pub(crate) fn new_password() -> Result<Zeroizing<String>> {
    if let Some(path) = std::env::var_os("SLUICE_NEW_PASSWORD_FILE").filter(|p| !p.is_empty()) {
        return first_line(Path::new(&path));
    }
    let ask = |prompt| {
        let typed = rpassword::prompt_password(prompt);
        typed.map(Zeroizing::new).context("cannot ask for the new password on the terminal")
    };
    let (first, second) = (ask("New password: ")?, ask("Once more: ")?);
    if first != second {
        return Err(advise("login", "the two passwords differ", "run the command again"));
    }
    Ok(first)
}

/// A code of an authenticator app, or a recovery code.
pub(crate) fn login_code() -> Result<Zeroizing<String>> {
    match std::env::var_os("SLUICE_CODE_FILE").filter(|path| !path.is_empty()) {
        Some(path) => first_line(Path::new(&path)),
        None => {
            let typed =
                rpassword::prompt_password("Code of the authenticator app, or a recovery code: ");
            typed.map(Zeroizing::new).context("cannot ask for the code on the terminal")
        }
    }
}

/// The first line of a file.
fn first_line(path: &Path) -> Result<Zeroizing<String>> {
    let text = read(path)
        .with_context(|| format!("cannot read the passphrase from {}", path.display()))?;
    let line = Zeroizing::new(text.lines().next().unwrap_or_default().to_owned());
    not_empty(&line, &format!("the first line of {}", path.display()))?;
    Ok(line)
}

fn not_empty(passphrase: &str, place: &str) -> Result<()> {
    if passphrase.is_empty() {
        return Err(advise("wrong-key", format!("{place} is empty"), "put the passphrase there"));
    }
    Ok(())
}

fn read(path: &Path) -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    std::fs::File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

fn ask(prompt: &str) -> Result<Zeroizing<String>> {
    if !std::io::stderr().is_terminal() || std::fs::File::open("/dev/tty").is_err() {
        return Err(advise(
            "wrong-key",
            "the repository needs a passphrase, and there is no terminal to ask on",
            format!("set {FILE} to a file whose first line is the passphrase"),
        ));
    }
    let typed = rpassword::prompt_password(prompt).context("cannot read from the terminal")?;
    let typed = Zeroizing::new(typed);
    not_empty(&typed, "the passphrase")?;
    Ok(typed)
}

fn ask_twice() -> Result<Zeroizing<String>> {
    let first = ask("New passphrase: ")?;
    let second = ask("Once more: ")?;
    if first != second {
        return Err(advise("wrong-key", "the two passphrases differ", "run the command again"));
    }
    Ok(first)
}

/// Reads a recovery key.
pub(crate) fn recovery_key(path: &Path) -> Result<RecoveryKey> {
    let context = || format!("cannot read a recovery key from {}", path.display());
    let text = read(path).with_context(context)?;
    RecoveryKey::from_text(&text).with_context(context)
}

/// Writes a recovery key to a new file that only its owner can read.
pub(crate) fn write_recovery_key(path: &Path, key: &RecoveryKey) -> Result<()> {
    write_new(path, &Zeroizing::new(format!("{}\n", key.to_text().as_str())))
}

/// Writes a recovery key as a picture to scan to a new file that only its owner can read.
pub(crate) fn write_recovery_picture(path: &Path, key: &RecoveryKey) -> Result<()> {
    let picture = code(key)?.render::<qrcode::render::svg::Color<'_>>().build();
    write_new(path, &Zeroizing::new(picture))
}

/// A recovery key as blocks of a terminal, to be scanned from the screen.
pub(crate) fn recovery_blocks(key: &RecoveryKey) -> Result<Zeroizing<String>> {
    blocks(&key.to_text())
}

/// A secret as blocks of a terminal, to be scanned from the screen.
pub(crate) fn blocks(text: &str) -> Result<Zeroizing<String>> {
    use qrcode::render::unicode::Dense1x2;
    let code = qrcode::QrCode::new(text.as_bytes()).context("cannot draw a picture to scan")?;
    // Most terminals are dark, and many scanners want dark on light.
    let blocks =
        code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    Ok(Zeroizing::new(blocks))
}

fn code(key: &RecoveryKey) -> Result<qrcode::QrCode> {
    qrcode::QrCode::new(key.to_text().as_bytes()).context("cannot draw the recovery key")
}

fn write_new(path: &Path, text: &str) -> Result<()> {
    let context = || format!("cannot write the recovery key to {}", path.display());
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(0o600).open(path).with_context(context)?;
    file.write_all(text.as_bytes()).with_context(context)?;
    file.sync_all().with_context(context)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_first_line_of_a_file_is_the_passphrase() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pass");
        for (text, line) in [("a b \n", "a b "), ("one\r\ntwo", "one"), ("x", "x")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(first_line(&path).unwrap().as_str(), line);
        }
        std::fs::write(&path, "\nsecond").unwrap();
        assert!(first_line(&path).unwrap_err().to_string().contains("empty"));
        assert!(first_line(&folder.path().join("none")).is_err());
    }

    #[test]
    fn a_recovery_key_goes_to_a_private_new_file_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = RecoveryKey::new([7; 32]);
        write_recovery_key(&path, &key).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(recovery_key(&path).unwrap().to_text(), key.to_text());
        assert!(write_recovery_key(&path, &key).is_err(), "an existing file is kept");
    }

    #[test]
    fn a_recovery_key_can_be_scanned_from_screen_and_paper() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.svg");
        let key = RecoveryKey::new([7; 32]);
        write_recovery_picture(&path, &key).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let picture = std::fs::read_to_string(&path).unwrap();
        assert!(picture.contains("<svg") && picture.contains("<path"), "{picture}");
        let blocks = recovery_blocks(&key).unwrap();
        let widths: Vec<usize> = blocks.lines().map(|line| line.chars().count()).collect();
        // A square with a margin of four on each side; two rows to a line.
        assert!(widths.iter().all(|width| *width == widths[0]), "{widths:?}");
        assert_eq!(widths.len(), widths[0].div_ceil(2));
        // The margin is what is written; the code is what is left out.
        let first = blocks.lines().next().unwrap();
        assert!(first.chars().all(|one| one == '█'), "{first}");
        let other = recovery_blocks(&RecoveryKey::new([8; 32])).unwrap();
        assert_ne!(*blocks, *other);
        assert!(widths[0] <= 78, "it fits into a terminal: {}", widths[0]);
    }
}
