//! Secrets stay secret.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::disk::{self, MIB};
use crate::support::repo::{PASSPHRASE, Repo};
use crate::support::run::{Ran, wait_until};
use crate::support::serve::Export;

fn silent(ran: &Ran, secrets: &[&str]) {
    for secret in secrets {
        assert!(!ran.err.contains(secret), "{} told a secret: {}", ran.what, ran.err);
        assert!(!ran.text().contains(secret), "{} told a secret: {}", ran.what, ran.text());
    }
}

#[test]
fn no_output_contains_the_passphrase_or_the_recovery_key() {
    let repo = Repo::without();
    let recovery = repo.path("recovery");
    let image = repo.path("disk.raw");
    disk::create(&image, MIB);
    disk::fill(&image, 0, 5000, 1);
    let image = image.to_str().unwrap();
    let init = ["init", "--recovery-key-out", recovery.to_str().unwrap(), "-vvv", "--json"];
    let made = repo.ok(init);
    let key = fs::read_to_string(&recovery).unwrap();
    let secrets = [PASSPHRASE, key.trim()];
    assert!(key.trim().len() > 20);
    silent(&made, &secrets);
    for args in [
        &["backup", "vm", image][..],
        &["list"],
        &["show", "vm"],
        &["stat"],
        &["key", "list"],
        &["key", "check"],
        &["verify", "--data"],
        &["prune", "--keep-last", "1"],
    ] {
        for more in [&["-vvv"][..], &["--json", "-vvv"]] {
            silent(&repo.ok([args, more].concat()), &secrets);
        }
    }
    silent(&repo.fails(1, ["show", "vm@7777777777", "-vvv"]), &secrets);
    // As a variable, with a mistake in it.
    let typo = format!("{PASSPHRASE}x");
    let cmd = repo.sluice(["list", "-vvv"]).without_env("SLUICE_PASSPHRASE_FILE");
    silent(&cmd.env("SLUICE_PASSPHRASE", &typo).fails(1), &secrets);
    // Nothing that is stored contains them either.
    for path in repo.objects("") {
        let bytes = fs::read(&path).unwrap();
        for secret in secrets {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{} contains a secret", path.display());
        }
    }
}

#[test]
fn a_long_running_command_does_not_show_the_passphrase_to_ps() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, MIB);
    disk::fill(&image, 0, 5000, 1);
    let point = repo.backup(&image);
    let mut export = Export::unix(&repo, &point);
    let pid = export.running().pid();
    for file in ["cmdline", "environ", "comm"] {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(PASSPHRASE), "/proc/PID/{file} shows the passphrase");
    }
    export.stop();
}

#[test]
fn content_and_names_cannot_be_read_at_the_destination() {
    let repo = Repo::new();
    let image = repo.path("Payroll-Image.raw");
    disk::create(&image, MIB);
    disk::write(&image, 4096, b"The Quick Brown Fox of Content");
    let image = image.to_str().unwrap();
    repo.ok(["backup", "Instance-Of-Note", image]);
    for path in repo.objects("") {
        let bytes = fs::read(&path).unwrap();
        for word in ["Instance-Of-Note", "Payroll-Image", "Quick Brown Fox"] {
            let found = bytes.windows(word.len()).any(|window| window == word.as_bytes());
            assert!(!found, "{} contains {word:?}", path.display());
            assert!(!path.to_string_lossy().contains(word));
        }
    }
}

#[test]
fn a_passphrase_file_that_cannot_be_used_is_named() {
    let repo = Repo::new();
    let empty = repo.path("empty");
    fs::write(&empty, "\n").unwrap();
    let folder = repo.path("folder");
    fs::create_dir(&folder).unwrap();
    for path in [repo.path("nothing-here"), empty, folder] {
        let cmd = repo.sluice(["list"]).env("SLUICE_PASSPHRASE_FILE", &path);
        cmd.fails(1).says(&[path.file_name().unwrap().to_str().unwrap()]);
    }
    // None at all, and no terminal to ask on.
    let cmd = repo.sluice(["list"]).without_env("SLUICE_PASSPHRASE_FILE");
    cmd.fails(1).says(&["passphrase", "SLUICE_PASSPHRASE_FILE"]);
}

#[test]
fn the_recovery_key_opens_what_a_lost_passphrase_cannot() {
    let repo = Repo::without();
    let recovery = repo.path("recovery");
    repo.ok(["init", "--recovery-key-out", recovery.to_str().unwrap()]);
    assert_eq!(recovery.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let image = repo.path("disk.raw");
    disk::create(&image, MIB);
    disk::fill(&image, 0, 5000, 1);
    let point = repo.backup(&image);
    let target = repo.path("restored.raw");
    let args = ["restore", &point, target.to_str().unwrap(), "--recovery-key-file"];
    repo.sluice(args).arg(&recovery).without_env("SLUICE_PASSPHRASE_FILE").ok();
    disk::assert_same(&image, &target);

    // A new passphrase, and the old one taken away.
    let new = repo.path("new");
    fs::write(&new, "another one entirely\n").unwrap();
    repo.ok(["key", "add", "--label", "second", "--new-passphrase-file", new.to_str().unwrap()]);
    repo.sluice(["list"]).env("SLUICE_PASSPHRASE_FILE", &new).ok();
    let slots = repo.json(["key", "list"]);
    let slots = slots.as_array().or_else(|| slots["keys"].as_array()).expect("a list of slots");
    assert_eq!(slots.len(), 3);
    let first = slots
        .iter()
        .find(|slot| slot["kind"] == "passphrase" && slot["label"] != "second")
        .unwrap_or_else(|| panic!("no first passphrase in {slots:?}"));
    repo.ok(["key", "remove", first["id"].as_str().unwrap()]);
    repo.fails(1, ["list"]).says(&["passphrase"]);
    repo.sluice(["list"]).env("SLUICE_PASSPHRASE_FILE", &new).ok();
}

#[test]
fn a_repository_without_encryption_is_made_only_by_name() {
    let repo = Repo::without();
    let bare = |args: &[&str]| repo.sluice(args).without_env("SLUICE_PASSPHRASE_FILE");
    bare(&["init"]).fails(1).says(&["passphrase"]);
    assert!(!repo.folder().join("format").exists());
    bare(&["init", "--encryption", "none"]).ok();
    let image = repo.path("disk.raw");
    disk::create(&image, MIB);
    disk::fill(&image, 0, 5000, 1);
    bare(&["backup", "vm", image.to_str().unwrap()]).ok();
    let target = repo.path("restored.raw");
    bare(&["restore", "vm@latest", target.to_str().unwrap()]).ok();
    disk::assert_same(&image, &target);
    bare(&["verify", "--data"]).ok();
}

#[test]
fn whoever_writes_to_the_destination_cannot_choose_the_key() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, MIB);
    disk::fill(&image, 0, 5000, 1);
    repo.backup(&image);
    // A key in clear beside the slots, in the name that is looked at first.
    let slot = concat!(
        r#"{"kind": "open", "label": "", "created": "2026-01-01T00:00:00Z", "#,
        r#""key": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}"#
    );
    let planted = repo.folder().join("keys/000000000000");
    fs::write(&planted, slot).unwrap();
    repo.backup(&image);
    assert_eq!(repo.points("vm").len(), 2, "both are under the repository's own key");
    // And a descriptor that says that no passphrase is needed.
    let format = repo.folder().join("format");
    let text = fs::read_to_string(&format).unwrap().replace("aes-256-gcm", "open");
    fs::write(&format, text).unwrap();
    let told = ["not encrypted", "help:", "passphrase", "do not back up"];
    repo.fails(1, ["backup", "vm", image.to_str().unwrap()]).says(&told);
    repo.fails(1, ["list"]).says(&told);
}

#[test]
fn files_made_for_the_owner_are_not_for_others() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, MIB);
    let point = repo.backup(&image);
    let export = Export::unix(&repo, &point);
    let socket = export.uri().split_once("socket=").unwrap().1.to_owned();
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "others may use the socket: {mode:o}");
    drop(export);
    wait_until("the cache is private", || {
        !repo.path("cache/sluice").exists()
            || fs::metadata(repo.path("cache/sluice")).unwrap().permissions().mode() & 0o022 == 0
    });
}
