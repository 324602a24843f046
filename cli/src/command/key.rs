use anyhow::Result;
use serde_json::json;
use sluice_repository::{KdfCost, Repository};

use super::init;
use crate::args::KeyCommand;
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};
use crate::output::{self, note, table, warn};
use crate::secret;

/// Manages key slots.
pub(crate) async fn run(context: &Context, command: KeyCommand) -> Result<Exit> {
    let repository = context.open().await?;
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
        KeyCommand::Recovery { out, label } => {
            must_be_encrypted(&repository)?;
            if let Some(path) = out.as_ref().filter(|path| path.exists()) {
                let text = format!("{} exists already", path.display());
                return Err(advise("target", text, "name a new file for the recovery key"));
            }
            let (id, key) = repository.add_recovery(&label).await?;
            let handed_over = match &out {
                Some(path) => secret::write_recovery_key(path, &key),
                None => {
                    init::show(&key);
                    Ok(())
                }
            };
            if let Err(error) = handed_over {
                // Nobody has the key of this slot: it is of no use.
                repository.remove_key_slot(&id).await?;
                return Err(error);
            }
            tell(context, "added", &id)
        }
    }
}

fn must_be_encrypted(repository: &Repository) -> Result<()> {
    if repository.descriptor().encryption == "open" {
        return Err(usage_error(
            "this repository is not encrypted; a key would not protect what is stored in it",
        ));
    }
    Ok(())
}

async fn list(context: &Context, repository: &Repository) -> Result<Exit> {
    let slots = repository.key_slots().await?;
    let mut exit = Exit::Done;
    let mut rows = Vec::new();
    let mut documents = Vec::new();
    for (id, slot) in &slots {
        match slot {
            Ok(slot) => {
                let (label, kind, created) = slot.describe();
                rows.push(vec![id.clone(), kind.into(), label.into(), created.into()]);
                documents.push(json!({"id": id, "kind": kind, "label": label, "created": created}));
            }
            Err(error) => {
                warn(format_args!("key slot {id} is damaged: {error}"));
                documents.push(json!({"id": id, "kind": "damaged", "error": error.to_string()}));
                exit = Exit::Damaged;
            }
        }
    }
    if context.global.json {
        output::json(&json!({ "keys": documents }))?;
    } else {
        output::print(&table(&["ID", "KIND", "LABEL", "CREATED"], rows))?;
    }
    Ok(exit)
}

fn tell(context: &Context, verb: &str, id: &str) -> Result<Exit> {
    if context.global.json {
        output::json(&json!({ verb: id }))?;
    } else if !context.global.quiet {
        note(format_args!("{verb} key slot {id}"));
    }
    Ok(Exit::Done)
}
