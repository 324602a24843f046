use std::io::{IsTerminal, Write};

use anyhow::{Context as _, Result};
use sluice_repository::{InitOptions, KdfCost, RecoveryKey, Repository, Unlock};

use crate::args::{Encryption, InitArgs};
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};
use crate::output::{self, note};
use crate::secret;

/// Creates a repository.
pub(crate) async fn run(context: &Context, args: &InitArgs) -> Result<Exit> {
    context.repo()?;
    let encrypted = args.encryption == Encryption::Aes;
    if !encrypted && (args.recovery_key_out.is_some() || args.no_recovery_key) {
        return Err(usage_error("a repository without encryption has no recovery key"));
    }
    if let Some(path) = &args.recovery_key_out
        && path.exists()
    {
        // Better now than after the repository exists and the key is nowhere.
        return Err(advise(
            "target",
            format!("{} exists already", path.display()),
            "name a new file for the recovery key",
        ));
    }
    let destination = context.destination(true).await?.destination;
    let unlock =
        if encrypted { Unlock::Passphrase(secret::new_passphrase()?) } else { Unlock::Open };
    let recovery = encrypted && !args.no_recovery_key;
    let lock = super::lock::rule(args.object_lock, args.lock_days);
    let options = InitOptions { unlock, recovery, kdf: KdfCost::default(), lock };
    let (repository, key) =
        Repository::init(destination, context.clock.clone(), options, context.settings(0)).await?;
    if let Some(key) = &key {
        hand_over(args, key)?;
    }
    tell(context, args, &repository)?;
    Ok(Exit::Done)
}

/// Gives the recovery key away: it is kept nowhere.
fn hand_over(args: &InitArgs, key: &RecoveryKey) -> Result<()> {
    if let Some(path) = &args.recovery_key_out {
        return secret::write_recovery_key(path, key).with_context(|| {
            "the repository exists, but without its recovery key; make one with \
             `sluice key recovery`"
        });
    }
    show(key);
    Ok(())
}

/// Shows a recovery key once, on the terminal when there is one, so that it stays out of logs.
pub(crate) fn show(key: &RecoveryKey) {
    let text = key.to_text();
    let blocks = secret::recovery_blocks(key).unwrap_or_default();
    let lines = format!(
        "Recovery key (shown once, kept nowhere; print it and lock it away):\n\n  {}\n\n{}\n\n",
        text.as_str(),
        blocks.as_str()
    );
    let lines = zeroize::Zeroizing::new(lines);
    if std::io::stderr().is_terminal() {
        let _ = std::io::stderr().lock().write_all(lines.as_bytes());
        return;
    }
    let terminal = std::fs::OpenOptions::new().write(true).open("/dev/tty");
    let shown = terminal.and_then(|mut terminal| terminal.write_all(lines.as_bytes()));
    if shown.is_err() {
        // No terminal anywhere: stderr is the only way left to hand it over.
        let _ = std::io::stderr().lock().write_all(lines.as_bytes());
    }
}

fn tell(context: &Context, args: &InitArgs, repository: &Repository) -> Result<()> {
    let descriptor = repository.descriptor();
    let location = repository.destination().location();
    if context.global.json {
        return output::json(&serde_json::json!({
            "repository": descriptor.id,
            "location": location,
            "encryption": descriptor.encryption,
            "format": format!("{}.{}", descriptor.major, descriptor.minor),
            "recovery_key_file": args.recovery_key_out,
        }));
    }
    if context.global.quiet {
        return Ok(());
    }
    output::print(&format!("created repository {} at {location}\n", descriptor.id))?;
    match args.encryption {
        Encryption::Aes if args.no_recovery_key => note(
            "It opens with the passphrase. Without it, nobody can read it: `sluice key recovery` \
             makes a second way in.",
        ),
        Encryption::Aes => note(
            "It opens with the passphrase or the recovery key. Without both, nobody can read it.",
        ),
        Encryption::None => note("It is not encrypted: whoever reads it reads the backups."),
    }
    Ok(())
}
