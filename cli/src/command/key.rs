mod slots;

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;
use sluice_repository::{ErrorKind, KdfCost, RecoveryKey, Repository, RotateData, Unlock};

use slots::{list, vouch};

use super::init;
use crate::args::{KeyCommand, RotateArgs};
use crate::context::Context;
use crate::error::{Advice, Exit, advise, usage_error};
use crate::output::{self, fields, note, warn};
use crate::secret;

/// Manages key slots.
pub(crate) async fn run(context: &Context, command: KeyCommand) -> Result<Exit> {
    let (repository, unlock) = context.open_with_key(0).await?;
    match command {
        KeyCommand::List => list(context, &repository).await,
        KeyCommand::Add { new_passphrase_file, label } => {
            must_be_encrypted(&repository)?;
            let passphrase = secret::added_passphrase(new_passphrase_file.as_deref())?;
            let id = repository.add_passphrase(&label, &passphrase, KdfCost::default()).await?;
            tell(context, "added", &id)
        }
        KeyCommand::Remove { id } => {
            repository.remove_key_slot(&id).await?;
            tell(context, "removed", &id)
        }
        KeyCommand::Rotate(args) => {
            must_be_encrypted(&repository)?;
            if args.data {
                rotate_data(context, &repository, unlock, &args).await
            } else {
                rotate(context, &repository, &unlock, &args).await
            }
        }
        KeyCommand::Check => check(context, &repository).await,
        KeyCommand::Vouch { trust } => {
            must_be_encrypted(&repository)?;
            vouch(context, &repository, &trust).await
        }
        KeyCommand::Recovery { out, qr, label } => {
            must_be_encrypted(&repository)?;
            if let Some(path) = [&out, &qr].into_iter().flatten().find(|path| path.exists()) {
                let text = format!("{} exists already", path.display());
                return Err(advise("target", text, "name a new file for the recovery key"));
            }
            let (id, key) = repository.add_recovery(&label).await?;
            if let Err(error) = hand_over(&key, out.as_deref(), qr.as_deref()) {
                // Nobody has the key of this slot: it is of no use.
                repository.remove_key_slot(&id).await?;
                return Err(error);
            }
            tell(context, "added", &id)
        }
    }
}

/// Gives a recovery key away: it is kept nowhere.
fn hand_over(key: &RecoveryKey, out: Option<&Path>, qr: Option<&Path>) -> Result<()> {
    if let Some(path) = out {
        secret::write_recovery_key(path, key)?;
    }
    if let Some(path) = qr {
        secret::write_recovery_picture(path, key)?;
    }
    if out.is_none() && qr.is_none() {
        init::show(key);
    }
    Ok(())
}

/// Changes the passphrase of a slot.
async fn rotate(
    context: &Context,
    repository: &Repository,
    unlock: &Unlock,
    args: &RotateArgs,
) -> Result<Exit> {
    if args.id.is_none() && matches!(unlock, Unlock::Recovery(_)) {
        return Err(usage_error(
            "the recovery key stays as it is; name the slot whose passphrase to change with --id \
             (`sluice key list` shows them)",
        ));
    }
    let variable = std::env::var_os("SLUICE_NEW_PASSPHRASE_FILE").filter(|path| !path.is_empty());
    let file = args.new_passphrase_file.clone().or(variable.map(PathBuf::from));
    let new = secret::added_passphrase(file.as_deref())?;
    if matches!(unlock, Unlock::Passphrase(old) if *old == new) {
        return Err(usage_error("the new passphrase is the old one"));
    }
    let id = args.id.as_deref();
    let (old, new) = repository.change_passphrase(id, &new, KdfCost::default()).await?;
    if context.global.json {
        output::json(&json!({ "added": new, "removed": old }))?;
    } else if !context.global.quiet {
        note(format_args!("changed the passphrase: key slot {new} in place of {old}"));
    }
    Ok(Exit::Done)
}

/// Begins a new data epoch.
async fn rotate_data(
    context: &Context,
    repository: &Repository,
    unlock: Unlock,
    args: &RotateArgs,
) -> Result<Exit> {
    let mut passphrases = Vec::new();
    if let Unlock::Passphrase(passphrase) = unlock {
        passphrases.push(passphrase);
    }
    for path in &args.keep_passphrase_file {
        passphrases.push(secret::added_passphrase(Some(path))?);
    }
    let options = RotateData {
        passphrases,
        trusted: args.trust.clone(),
        drop_others: args.drop_other_slots,
        kdf: KdfCost::default(),
    };
    let rotated = repository.rotate_data(&options).await.map_err(|error| {
        let refused = error.kind() == ErrorKind::Invalid;
        let error = anyhow::Error::from(error);
        if refused {
            return error.context(Advice::new(
                "invalid",
                "the data key was not changed",
                "give their passphrases with --keep-passphrase-file, vouch for a recovery slot \
                 with --trust ID, or let them go with --drop-other-slots; `sluice key list` \
                 shows them",
            ));
        }
        error
    })?;
    for id in &rotated.left_behind {
        warn(format_args!("key slot {id} is of no use any more and could not be removed"));
    }
    if context.global.json {
        let kept: Vec<_> =
            rotated.kept.iter().map(|(old, new)| json!({"old": old, "new": new})).collect();
        output::json(&json!({
            "epoch": rotated.epoch,
            "kept": kept,
            "dropped": rotated.dropped,
            "left_behind": rotated.left_behind,
        }))?;
    } else if !context.global.quiet {
        note(format_args!("data epoch {} has begun", rotated.epoch));
        for (old, new) in &rotated.kept {
            note(format_args!("kept key slot {old}, now {new}"));
        }
        for id in &rotated.dropped {
            note(format_args!("dropped key slot {id}"));
        }
        note("restart mounts and exports that run: they cannot read what is backed up from now on");
    }
    Ok(if rotated.left_behind.is_empty() { Exit::Done } else { Exit::Warnings })
}

/// Proves that a key opens the repository.
async fn check(context: &Context, repository: &Repository) -> Result<Exit> {
    let found = repository.check_key().await?;
    let (label, kind, created) = found.content.describe();
    for id in &found.left_behind {
        warn(format_args!(
            "key slot {id} opens nothing any more; remove it with `sluice key remove {id}`"
        ));
    }
    slots::warn_of(&found.not_vouched, found.standing);
    let not_vouched: Vec<&str> = found.not_vouched.iter().map(|(id, _)| id.as_str()).collect();
    if context.global.json {
        output::json(&json!({
            "id": found.slot,
            "kind": kind,
            "label": label,
            "created": created,
            "fingerprint": found.content.fingerprint(),
            "epoch": found.epoch,
            "proven": found.proven,
            "left_behind": found.left_behind,
            "made_by_holder": slots::word(found.standing),
            "not_vouched": not_vouched,
        }))?;
    } else {
        let proven = match found.proven.as_slice() {
            [] => "nothing is sealed yet".into(),
            proven => proven.join(", "),
        };
        let mut rows = vec![
            ("opens", format!("key slot {}", found.slot)),
            ("kind", kind.to_owned()),
            ("label", label.to_owned()),
            ("created", created.to_owned()),
            ("data epoch", found.epoch.to_string()),
            ("made by", slots::text(found.standing).to_owned()),
            ("decrypted", proven),
        ];
        if let Some(fingerprint) = found.content.fingerprint() {
            rows.insert(4, ("fingerprint", fingerprint));
        }
        output::print(&fields(rows))?;
    }
    let strange = slots::is_strange(&found.not_vouched, found.standing);
    let sound = found.left_behind.is_empty() && !strange;
    Ok(if sound { Exit::Done } else { Exit::Warnings })
}

fn must_be_encrypted(repository: &Repository) -> Result<()> {
    if repository.descriptor().encryption == "open" {
        return Err(usage_error(
            "this repository is not encrypted; a key would not protect what is stored in it",
        ));
    }
    Ok(())
}

fn tell(context: &Context, verb: &str, id: &str) -> Result<Exit> {
    if context.global.json {
        output::json(&json!({ verb: id }))?;
    } else if !context.global.quiet {
        note(format_args!("{verb} key slot {id}"));
    }
    Ok(Exit::Done)
}
