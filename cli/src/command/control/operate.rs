//! Backups of a server, and bringing it back.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result};
use http::Method;
use serde_json::{Value, json};
use sluice_block::BlockRead;
use sluice_repository::{ImageReader, RestorePoint};
use sluice_server::{CATALOG, KEYS, restore_state};

use super::profile;
use super::records::Records;
use super::serve::folder;
use crate::args::{CatalogCommand, SelfBackupCommand, ServerRestoreArgs};
use crate::context::Context;
use crate::error::{Exit, advise};
use crate::output::{self, fields, local, note};

/// Bytes read at a time.
const PIECE: u64 = 4 << 20;
/// Restore points told in one request.
const AT_ONCE: usize = 500;

/// Shows, sets or starts backups of the server.
pub(crate) async fn self_backup(context: &Context, command: SelfBackupCommand) -> Result<Exit> {
    let client = profile::client()?;
    let path = "/api/v1/self-backup";
    match command {
        SelfBackupCommand::Show => shown(context, &client.get::<Value>(path).await?),
        SelfBackupCommand::Set { to, every, keep } => {
            let destinations = Records::load(&client, "destinations").await?;
            let destination = &destinations.one(&to)?["id"];
            let every = every.as_secs();
            let wanted = json!({"destination": destination, "every_seconds": every, "keep": keep});
            shown(context, &client.send(Method::PUT, path, Some(&wanted), &[]).await?.body)
        }
        SelfBackupCommand::Run => {
            client.send(Method::POST, path, None, &[]).await?;
            if context.global.json {
                output::json(&json!({"asked": true}))?;
            } else if !context.global.quiet {
                note("the server is backed up within seconds; see `sluice self-backup show`");
            }
            Ok(Exit::Done)
        }
    }
}

fn shown(context: &Context, view: &Value) -> Result<Exit> {
    let state = &view["state"];
    let failed = state["failure"].is_string();
    if context.global.json {
        output::json(view)?;
    } else if view["wanted"].is_null() {
        note("the server is not backed up; `sluice self-backup set --to NAME` does it");
    } else {
        let wanted = &view["wanted"];
        let text = |value: &Value| value.as_str().unwrap_or("none yet").to_owned();
        let good = state["good_ms"].as_u64().map(|ms| local(ms, &context.zone));
        let mut rows = vec![
            ("destination", text(&wanted["destination"])),
            ("every", format!("{} s", wanted["every_seconds"])),
            ("kept", wanted["keep"].to_string()),
            ("last good backup", good.unwrap_or_else(|| "none yet".to_owned())),
            ("restore point", text(&state["point"])),
        ];
        rows.extend(failed.then(|| ("the last one failed", text(&state["failure"]))));
        output::print(&fields(rows))?;
    }
    Ok(if failed { Exit::Warnings } else { Exit::Done })
}

/// Brings a lost server back.
pub(crate) async fn restore(context: &mut Context, args: ServerRestoreArgs) -> Result<Exit> {
    if let Some(from) = args.from {
        context.global.repo = Some(from);
    }
    let state = folder(args.state, "server")?;
    let repository = context.open().await?;
    let (point, _) = context.point(&repository, &args.point).await?;
    let keys = repository.image(&point, Some(KEYS))?;
    let catalog = repository.image(&point, Some(CATALOG))?;
    let pin = repository.pin(&point, "server restore").await?;
    let done = put_back(&state, args.database.as_deref(), &keys, &catalog).await;
    pin.release().await;
    done.with_context(|| format!("no server was brought back from {point}"))?;
    if context.global.json {
        output::json(&json!({"point": point.to_string(), "state": state}))?;
    } else if !context.global.quiet {
        let when = local(point.created_ms, &context.zone);
        note(format_args!("the server is as it was at {when}, in {}", state.display()));
        note("start it as before; then look for newer restore points: sluice catalog rebuild");
    }
    Ok(Exit::Done)
}

async fn put_back(
    state: &Path,
    database: Option<&str>,
    keys: &ImageReader,
    catalog: &ImageReader,
) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(state);
    made.with_context(|| format!("cannot make the folder {}", state.display()))?;
    let mut text = Vec::new();
    copy(keys, &mut text).await?;
    let files: BTreeMap<String, String> =
        serde_json::from_slice(&text).context("this is no backup of a control plane")?;
    // It lies beside the database to be, where there is room for it.
    let mut snapshot = tempfile::Builder::new().prefix("restore-").tempfile_in(state)?;
    copy(catalog, snapshot.as_file_mut()).await?;
    snapshot.as_file_mut().sync_all()?;
    Ok(restore_state(state, database, &files, snapshot.path()).await?)
}

async fn copy(from: &ImageReader, to: &mut impl Write) -> Result<()> {
    let mut at = 0;
    let mut piece = Vec::new();
    while at < from.size() {
        piece.resize(PIECE.min(from.size() - at) as usize, 0);
        from.read_at(at, &mut piece).await?;
        to.write_all(&piece)?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// Does something with the catalog of a server.
pub(crate) async fn catalog(context: &Context, command: CatalogCommand) -> Result<Exit> {
    let CatalogCommand::Rebuild { destination } = command;
    let client = profile::client()?;
    let destinations = Records::load(&client, "destinations").await?;
    let known = destinations.one(&destination)?;
    let url = known["spec"]["url"].as_str().unwrap_or_default();
    if url != context.repo()? {
        let text = format!("{destination} of the server is {url}, and not this repository");
        return Err(advise("usage", text, "name its own repository with --repo"));
    }
    let path = format!("/api/v1/destinations/{}/points", known["id"].as_str().unwrap_or_default());
    let repository = context.open().await?;
    let listing = repository.list(None).await?;
    let exit = crate::command::points::tell_damaged(&listing.damaged);
    let mut told = BTreeMap::from(
        ["points", "instances", "projects", "foreign"].map(|name| (name.to_owned(), 0)),
    );
    for points in listing.points.chunks(AT_ONCE) {
        let found: Vec<Value> = points.iter().map(found).collect();
        let answer: Value = client.post(&path, &found).await?;
        for (name, many) in &mut told {
            *many += answer[name].as_u64().unwrap_or(0);
        }
    }
    if context.global.json {
        output::json(&json!(told))?;
    } else {
        let word = |name: &str, word: &str| output::count(told[name], word);
        output::print(&format!(
            "{} found again, of {} in all; {} and {} made\n",
            word("points", "restore point"),
            listing.points.len(),
            word("instances", "instance"),
            word("projects", "project")
        ))?;
        if told["foreign"] > 0 {
            note(format_args!("{} of no server's instances left alone", told["foreign"]));
        }
    }
    Ok(exit)
}

/// Where an image came from, of the description that a restore point keeps: `PATH (FORMAT)`.
fn place(source: &str) -> &str {
    match source.rsplit_once(" (") {
        Some((path, format)) if format.ends_with(')') => path,
        _ => source,
    }
}

fn found(point: &RestorePoint) -> Value {
    let sources: Vec<&str> = point.images.iter().map(|image| place(&image.source)).collect();
    json!({
        "point": point.to_string(),
        "taken_ms": point.created_ms,
        "image_bytes": point.stats.image_bytes,
        "new_bytes": point.stats.new_bytes,
        "stored_bytes": point.stats.stored_bytes,
        "sources": sources,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_path_without_its_format() {
        assert_eq!(place("/images/web (raw)"), "/images/web");
        assert_eq!(place("/images/web (old) (qcow2)"), "/images/web (old)");
        assert_eq!(place("/dev/vg/web"), "/dev/vg/web");
    }
}
