//! What mountd keeps: listing it, renewing leases, ending it.

use std::path::Path;

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use sluice_mountd::metrics::{Statistics, state_name};
use sluice_mountd::protocol::{Request, Shown};
use sluice_mountd::table::State;
use sluice_mountd::{Client, ClientError};

use crate::args::{MountsArgs, MountsCommand, RenewArgs, UnmountArgs};
use crate::command::detach::{failed, full_path, milliseconds};
use crate::command::mountd::Places;
use crate::context::Context;
use crate::error::{Advice, Exit};
use crate::output;

/// A mount as `--json` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct Document {
    pub(crate) id: String,
    kind: String,
    state: &'static str,
    /// Why it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// URI of the default export, or folder of the mount.
    pub(crate) place: Option<String>,
    pub(crate) point: Option<String>,
    created: String,
    pub(crate) lease_end: Option<String>,
    /// Whether it comes back after a restart.
    comes_back: bool,
    /// The variables in memory without which it does not.
    pub(crate) needs: Vec<String>,
    command: Vec<String>,
    /// What it said when it was first ready.
    told: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<Statistics>,
}

impl Document {
    pub(crate) fn of(mount: &Shown) -> Self {
        let text = |of: &Value, name: &str| of[name].as_str().map(str::to_owned);
        let told = &mount.identity;
        let reason = match &mount.state {
            State::Waiting { reason, .. } | State::Failed { reason } => Some(reason.clone()),
            _ => None,
        };
        let words = mount.spec["argv"].as_array().into_iter().flatten();
        Self {
            id: mount.id.clone(),
            kind: text(&mount.spec, "kind").unwrap_or_default(),
            state: state_name(&mount.state),
            reason: reason.filter(|reason| !reason.is_empty()),
            place: text(told, "uri").or_else(|| text(told, "mounted")),
            point: text(told, "point"),
            created: time(mount.created_ms),
            lease_end: mount.lease_end_ms.map(time),
            comes_back: mount.secret_names.is_empty(),
            needs: mount.secret_names.clone(),
            command: words.filter_map(|word| word.as_str().map(str::to_owned)).collect(),
            told: told.clone(),
            statistics: mount.statistics.clone(),
        }
    }
}

fn time(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).map_or_else(|_| "never".to_owned(), |time| time.to_string())
}

/// Lists mounts, or renews one.
pub(crate) async fn run(context: &Context, args: &MountsArgs) -> Result<Exit> {
    match &args.command {
        Some(MountsCommand::Renew(args)) => renew(context, args).await,
        None => list(context).await,
    }
}

async fn list(context: &Context) -> Result<Exit> {
    let places = Places::of_client()?;
    let mounts = match Client::connect(&places.socket).await {
        Ok(mut client) => client.ask(&Request::List).await.map_err(failed)?,
        // One that is not there keeps nothing.
        Err(ClientError::Nobody(_)) if !places.named => Vec::new(),
        Err(error) => return Err(failed(error)),
    };
    if context.global.json {
        let documents: Vec<Document> = mounts.iter().map(Document::of).collect();
        output::json(&serde_json::json!({ "mounts": documents }))?;
        return Ok(Exit::Done);
    }
    if mounts.is_empty() {
        output::note("mountd keeps no mounts; `sluice mount DIR --detach` begins one");
        return Ok(Exit::Done);
    }
    let rows = mounts.iter().map(|mount| row(context, mount)).collect();
    let head = &["ID", "KIND", "STATE", "PLACE", "ENDS", "REQUESTS", "READ", "WRITTEN"];
    output::print(&output::table(head, rows))?;
    for document in mounts.iter().map(Document::of) {
        if let Some(reason) = &document.reason {
            output::note(format_args!("{}: {reason}", document.id));
        }
    }
    Ok(Exit::Done)
}

fn row(context: &Context, mount: &Shown) -> Vec<String> {
    let document = Document::of(mount);
    let dash = || "-".to_owned();
    let exports = || mount.statistics.iter().flat_map(|all| &all.exports);
    let known = mount.statistics.is_some();
    let sum = |figure: fn(&sluice_mountd::metrics::ExportStatistics) -> u64| {
        exports().map(figure).fold(0, u64::saturating_add)
    };
    let requests = sum(|export| export.read.requests.saturating_add(export.write.requests));
    let ends = mount.lease_end_ms.map(|end| output::local(end, &context.zone));
    vec![
        document.id,
        document.kind,
        document.state.to_owned(),
        document.place.unwrap_or_else(dash),
        ends.unwrap_or_else(dash),
        if known { requests.to_string() } else { dash() },
        if known { output::bytes(sum(|export| export.read.bytes)) } else { dash() },
        if known { output::bytes(sum(|export| export.write.bytes)) } else { dash() },
    ]
}

async fn renew(context: &Context, args: &RenewArgs) -> Result<Exit> {
    let mut client = Client::connect(&Places::of_client()?.socket).await.map_err(failed)?;
    let lease_ms = args.lease.filter(|_| !args.forever).map(milliseconds);
    let request = Request::Renew { id: args.id.clone(), lease_ms };
    let mounts = client.ask(&request).await.map_err(failed)?;
    for document in mounts.iter().map(Document::of) {
        if context.global.json {
            output::json(&document)?;
        } else if !context.global.quiet {
            let end = document.lease_end.as_deref().unwrap_or("never");
            output::note(format_args!("{} now ends: {end}", document.id));
        }
    }
    Ok(Exit::Done)
}

/// Ends mounts that mountd keeps, or one that it does not.
pub(crate) async fn unmount(context: &Context, args: &UnmountArgs) -> Result<Exit> {
    let places = Places::of_client()?;
    let mut client = match Client::connect(&places.socket).await {
        Ok(client) => Some(client),
        Err(ClientError::Nobody(_)) => None,
        // A folder can be unmounted whatever is wrong with mountd.
        Err(error) if args.all => return Err(failed(error)),
        Err(_) => None,
    };
    let mut ended = Vec::new();
    if let Some(client) = &mut client {
        let kept = client.ask(&Request::List).await.map_err(failed)?;
        for mount in kept.iter().filter(|mount| is_meant(mount, args)) {
            client.ask(&Request::Stop { id: mount.id.clone() }).await.map_err(failed)?;
            ended.push(mount.id.clone());
        }
    }
    match &args.what {
        Some(what) if ended.is_empty() => unmount_folder(what)?,
        _ => {}
    }
    if context.global.json {
        output::json(&serde_json::json!({ "ended": ended }))?;
    }
    Ok(Exit::Done)
}

fn is_meant(mount: &Shown, args: &UnmountArgs) -> bool {
    let Some(what) = &args.what else { return args.all };
    if what.as_os_str() == mount.id.as_str() {
        return true;
    }
    let dir = mount.spec["dir"].as_str().map(Path::new);
    dir.is_some_and(|dir| full_path(what).is_ok_and(|what| what == dir))
}

/// Unmounts what mountd does not keep.
fn unmount_folder(dir: &Path) -> Result<()> {
    let dir = std::path::absolute(dir)?;
    sluice_fuse::unmount(&dir).map_err(|error| {
        let shown = dir.display();
        let help =
            format!("`sluice mounts` and `findmnt {shown}` tell what is mounted, and under what");
        let message = format!("cannot unmount {shown}");
        anyhow::Error::from(error).context(Advice::new("mount", message, help))
    })
}
