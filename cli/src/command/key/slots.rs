//! What is told of key slots, and of who made them.

use anyhow::Result;
use serde_json::json;
use sluice_repository::{Repository, Standing};

use crate::context::Context;
use crate::error::Exit;
use crate::output::{self, note, table, warn};

/// Who made a slot, for programs.
pub(super) fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Vouched => "vouched",
        Standing::Opened => "opened",
        Standing::Recipient => "recipient",
        Standing::Unknown => "unknown",
        Standing::Forged => "forged",
    }
}

/// Who made a slot, for people.
pub(super) fn text(standing: Standing) -> &'static str {
    match standing {
        Standing::Vouched => "a holder of the key",
        Standing::Opened => "not told; it opens",
        Standing::Recipient => "not told; a known recovery key",
        Standing::Unknown => "not told",
        Standing::Forged => "not a holder of the key",
    }
}

/// Whether somebody should look: `own` opened the repository, `others` are not vouched for. That
/// nobody is, is how earlier versions left it.
pub(super) fn is_strange(others: &[(String, Standing)], own: Standing) -> bool {
    let forged = others.iter().any(|(_, standing)| *standing == Standing::Forged);
    own == Standing::Forged || forged || (own == Standing::Vouched && !others.is_empty())
}

/// Says which slots nobody with the key vouches for, and what to do.
pub(super) fn warn_of(others: &[(String, Standing)], own: Standing) {
    if own == Standing::Forged {
        warn(format_args!(
            "the key slot that opened the repository was changed since it was made; put another in \
             its place with `sluice key rotate`"
        ));
    }
    for (id, standing) in others {
        match standing {
            Standing::Forged => warn(format_args!(
                "key slot {id} was made by somebody without the key, or changed since: do not \
                 count on it; `sluice key remove {id}` removes it"
            )),
            _ if own == Standing::Vouched => warn(format_args!(
                "nothing tells who made key slot {id}: an earlier version, or somebody who can \
                 write to the destination; its holder runs `sluice key vouch` with its passphrase \
                 (a recovery slot takes --trust {id}), or it is removed"
            )),
            _ => {}
        }
    }
    if own == Standing::Opened {
        note(
            "an earlier version made the key slots; after `sluice key vouch` they can be told from \
             such as anybody has put there",
        );
    }
}

/// Makes slots of earlier versions anew.
pub(super) async fn vouch(
    context: &Context,
    repository: &Repository,
    trust: &[String],
) -> Result<Exit> {
    let done = repository.vouch(trust).await?;
    for id in &done.left_behind {
        warn(format_args!("key slot {id} was made anew and could not be removed"));
    }
    for id in &done.unknown {
        warn(format_args!(
            "nothing tells who made key slot {id}: run this with its passphrase, or with --trust \
             {id} when it is a recovery slot whose fingerprint you know, or remove it"
        ));
    }
    if context.global.json {
        let renewed: Vec<_> =
            done.renewed.iter().map(|(old, new)| json!({"old": old, "new": new})).collect();
        output::json(&json!({
            "renewed": renewed,
            "unknown": done.unknown,
            "left_behind": done.left_behind,
        }))?;
    } else if !context.global.quiet {
        for (old, new) in &done.renewed {
            note(format_args!("vouched for key slot {old}, now {new}"));
        }
        if done.renewed.is_empty() && done.unknown.is_empty() {
            note("all key slots are vouched for");
        }
    }
    let sound = done.unknown.is_empty() && done.left_behind.is_empty();
    Ok(if sound { Exit::Done } else { Exit::Warnings })
}

/// Lists the slots.
pub(super) async fn list(context: &Context, repository: &Repository) -> Result<Exit> {
    let slots = repository.key_slots().await?;
    let (mut damaged, mut own, mut others) = (false, Standing::Vouched, Vec::new());
    let mut rows = Vec::new();
    let mut documents = Vec::new();
    for listed in &slots {
        let id = &listed.name;
        let (slot, standing) = match (&listed.slot, listed.standing) {
            (Ok(slot), Some(standing)) => (slot, standing),
            (Err(error), _) => {
                warn(format_args!("key slot {id} is damaged: {error}"));
                documents.push(json!({"id": id, "kind": "damaged", "error": error.to_string()}));
                damaged = true;
                continue;
            }
            (Ok(_), None) => continue,
        };
        let (label, kind, created) = slot.describe();
        let (epoch, fingerprint) = (slot.epoch(), slot.fingerprint());
        let old = epoch < repository.data_epoch();
        let current = *id == repository.opened_by();
        if current {
            own = standing;
        } else if standing != Standing::Vouched && !old {
            others.push((id.clone(), standing));
        }
        let mut row = vec![id.clone(), kind.into(), label.into(), created.into()];
        row.push(if old { format!("{epoch} (of no use)") } else { epoch.to_string() });
        row.push(text(standing).into());
        row.push(fingerprint.clone().unwrap_or_default());
        rows.push(row);
        documents.push(json!({
            "id": id,
            "kind": kind,
            "label": label,
            "created": created,
            "epoch": epoch,
            "fingerprint": fingerprint,
            "made_by_holder": word(standing),
            "current": current,
        }));
    }
    warn_of(&others, own);
    if context.global.json {
        output::json(&json!({ "keys": documents }))?;
    } else {
        let head = ["ID", "KIND", "LABEL", "CREATED", "EPOCH", "MADE BY", "FINGERPRINT"];
        output::print(&table(&head, rows))?;
    }
    Ok(match (damaged, is_strange(&others, own)) {
        (true, _) => Exit::Damaged,
        (false, true) => Exit::Warnings,
        (false, false) => Exit::Done,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_of_an_earlier_version_is_nothing_to_warn_of() {
        let other = |standing| [("a".to_owned(), standing)];
        assert!(!is_strange(&[], Standing::Vouched));
        for standing in [Standing::Unknown, Standing::Recipient] {
            assert!(!is_strange(&other(standing), Standing::Opened));
            assert!(is_strange(&other(standing), Standing::Vouched));
        }
        for own in [Standing::Opened, Standing::Vouched] {
            assert!(is_strange(&other(Standing::Forged), own));
        }
        assert!(is_strange(&[], Standing::Forged));
    }
}
