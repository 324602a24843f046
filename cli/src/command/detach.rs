//! Handing a mount or an export over to mountd.
//!
//! What is handed over is the command line as it was typed, the folder it was typed in, and the
//! part of the environment that it may need. Of the environment, what may be a secret travels
//! apart: mountd keeps it in memory only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sluice_mountd::protocol::{Request, Shown};
use sluice_mountd::{Client, ClientError};
use sluice_repository::{Repository, Unlock};

use crate::args::{Command, DetachArgs, ExportProtocol, MountdArgs};
use crate::command::mountd::{Places, background};
use crate::command::{mount, mounts};
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};
use crate::output::{self, note, warn};
use crate::ready::Ready;
use crate::{managed, secret};

/// Where a passphrase is found that was typed.
const PASSPHRASE: &str = "SLUICE_PASSPHRASE";
/// Variables that a mount may need: those that begin so.
const FAMILIES: [&str; 6] = ["SLUICE_", "AWS_", "OS_", "ST_", "XDG_", "SSL_"];
/// And those with these names.
const NAMES: [&str; 7] =
    ["HOME", "TZ", "LANG", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY"];
/// Variables of this program that are not for the mount.
const OWN: [&str; 3] = ["SLUICE_MOUNTD_SOCKET", "SLUICE_MOUNTD_STATE", managed::MANAGED];
/// What the names of variables with secrets have in them, unless they name a file.
const SECRET: [&str; 5] = ["PASS", "SECRET", "TOKEN", "KEY", "CREDENTIAL"];

/// A mount, as mountd stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// What sort it is.
    pub(crate) kind: String,
    /// The command line.
    pub(crate) argv: Vec<String>,
    /// The folder that it was typed in.
    pub(crate) folder: PathBuf,
    /// The environment, without secrets.
    pub(crate) environment: BTreeMap<String, String>,
    /// Where it is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dir: Option<PathBuf>,
    /// Whether that folder was made for it, and goes with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) made: bool,
}

/// What is to be handed over.
#[derive(Debug)]
pub(crate) struct Wanted {
    kind: &'static str,
    repo: Option<String>,
    dir: Option<PathBuf>,
    lease: Option<Duration>,
}

/// What a command wants handed over, if it does.
pub(crate) fn wanted(command: &Command) -> Result<Option<Wanted>> {
    let lease = |background: &DetachArgs| match (background.detach, background.lease) {
        (false, Some(_)) => Err(usage_error("--lease goes with --detach")),
        (detach, lease) => Ok(detach.then_some(lease)),
    };
    Ok(match command {
        Command::Mount(args) => match lease(&args.background)? {
            Some(lease) => {
                let (repo, dir) = mount::places(args)?;
                let dir = Some(full_path(&dir)?);
                Some(Wanted { kind: "mount", repo, dir, lease })
            }
            None => None,
        },
        Command::Export(args) => match lease(&args.background)? {
            Some(lease) => {
                let kind = kind(&args.protocol)?;
                Some(Wanted { kind, repo: None, dir: None, lease })
            }
            None => None,
        },
        _ => None,
    })
}

fn kind(protocol: &ExportProtocol) -> Result<&'static str> {
    Ok(match protocol {
        ExportProtocol::Nbd(_) => "nbd",
        ExportProtocol::Iscsi(_) => "iscsi",
        ExportProtocol::Http(args) if args.token_file.is_none() => {
            let text = "--detach goes with --token-file: a token made at each start would be \
                        another one after a comeback";
            return Err(usage_error(text));
        }
        ExportProtocol::Http(_) => "http",
        ExportProtocol::VhostUser(_) => "vhost-user",
    })
}

/// The path of a folder as the kernel knows it, also when it is the mount of a dead process.
pub(crate) fn full_path(dir: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(dir).or_else(|_| std::path::absolute(dir)).context("no such folder")
}

/// Hands it over, and says where it is.
pub(crate) async fn run(
    context: &mut Context,
    wanted: Wanted,
    ready: Option<Ready>,
) -> Result<Exit> {
    if let Some(repo) = wanted.repo {
        context.global.repo = Some(repo);
    }
    let (environment, mut secrets) = environment(std::env::vars_os())?;
    if let Some(typed) = typed_passphrase(context).await? {
        secrets.insert(PASSPHRASE.to_owned(), typed);
    }
    let argv = std::env::args_os().map(|word| word.into_string());
    let argv: Result<Vec<String>, _> = argv.collect();
    let argv = argv.map_err(|word| {
        usage_error(format!("{} is not UTF-8, which mountd cannot store", word.display()))
    })?;
    let folder = std::env::current_dir().context("the current folder is gone")?;
    let spec =
        Spec { kind: wanted.kind.into(), argv, folder, environment, dir: wanted.dir, made: false };
    let request = Request::Mount {
        spec: serde_json::to_value(spec)?,
        secrets,
        lease_ms: wanted.lease.map(milliseconds),
        identity: None,
    };
    let mut client = connect_or_start(context).await?;
    let answered = client.ask(&request).await.map_err(failed)?;
    let mount = answered.first().context("mountd answered nothing")?;
    tell(context, mount, ready)?;
    Ok(Exit::Done)
}

/// A duration in ms.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a mount may need of the environment: what may be stored, and what may not.
fn environment(
    all: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
) -> Result<(BTreeMap<String, String>, BTreeMap<String, String>)> {
    let (mut stored, mut secrets) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in all {
        let Some(name) = name.to_str() else { continue };
        let known = FAMILIES.iter().any(|family| name.starts_with(family)) || NAMES.contains(&name);
        if !known || OWN.contains(&name) || value.is_empty() {
            continue;
        }
        let value = value.into_string().map_err(|_| {
            usage_error(format!("the variable {name} is not UTF-8, which mountd cannot store"))
        })?;
        let secret = is_secret(name, &value);
        if secret { &mut secrets } else { &mut stored }.insert(name.to_owned(), value);
    }
    // The file is what counts when both are set.
    if stored.contains_key("SLUICE_PASSPHRASE_FILE") {
        secrets.remove(PASSPHRASE);
    }
    Ok((stored, secrets))
}

/// Whether a variable may hold a secret: better one too many, which costs a comeback.
fn is_secret(name: &str, value: &str) -> bool {
    let named = SECRET.iter().any(|part| name.contains(part)) && !name.ends_with("_FILE");
    // A user and a password in a URL.
    named || value.split_once("://").is_some_and(|(_, rest)| rest.contains('@'))
}

/// The passphrase, if somebody must type it: mountd has no terminal to ask on.
async fn typed_passphrase(context: &Context) -> Result<Option<String>> {
    if secret::is_given() || context.global.recovery_key_file.is_some() {
        return Ok(None);
    }
    let destination = context.destination(false).await?.destination;
    // Tells a missing repository before anybody types.
    Repository::peek(&*destination).await?;
    Ok(match context.unlock(&*destination).await? {
        Unlock::Passphrase(passphrase) => Some(passphrase.to_string()),
        _ => None,
    })
}

/// A connection to mountd, which is started when none runs.
async fn connect_or_start(context: &Context) -> Result<Client> {
    let places = Places::of_client()?;
    match Client::connect(&places.socket).await {
        Err(ClientError::Nobody(_)) if !places.named => {}
        other => return other.map_err(failed),
    }
    if !context.global.json && !context.global.quiet {
        note("no mountd runs; starting one, which ends with its last mount");
    }
    let args = MountdArgs {
        state: Some(places.state.clone()),
        socket: Some(places.socket.clone()),
        metrics: None,
        until_idle: true,
    };
    let started = tokio::task::spawn_blocking(move || background(&args)).await?;
    // Somebody else may have started one meanwhile: then that one is as good.
    match Client::connect(&places.socket).await {
        Ok(client) => Ok(client),
        Err(error) => Err(started.err().unwrap_or_else(|| failed(error))),
    }
}

/// A client's error as one of the command.
pub(crate) fn failed(error: ClientError) -> anyhow::Error {
    match error {
        ClientError::Failed(failure) => {
            // Told once, right before the end of the process.
            let kind: &'static str = failure.kind.leak();
            let help = failure.help.unwrap_or_else(|| "`sluice mounts` lists what runs".into());
            advise(kind, failure.message, help)
        }
        ClientError::Nobody(_) => {
            let help = "start it: `sluice mountd`, or `systemctl start sluice-mountd`";
            let advice = crate::error::Advice::new("unreachable", error.to_string(), help);
            anyhow::Error::from(error).context(advice)
        }
        other => other.into(),
    }
}

fn tell(context: &Context, mount: &Shown, ready: Option<Ready>) -> Result<()> {
    let document = mounts::Document::of(mount);
    if let Some(ready) = ready {
        ready.tell(document.place.as_deref().unwrap_or_default())?;
    }
    if context.global.json {
        return output::json(&document);
    }
    if !document.needs.is_empty() {
        let needs = document.needs.join(", ");
        warn(format_args!(
            "this works until mountd is restarted, and does not come back after that: {needs} is \
             kept in memory only; name a file instead, such as SLUICE_PASSPHRASE_FILE"
        ));
    }
    if context.global.quiet {
        return Ok(());
    }
    let id = &document.id;
    match &mount.identity["mounted"] {
        serde_json::Value::String(dir) => {
            note(format_args!("mounted on {dir}; `sluice unmount {dir}` ends it"));
        }
        _ => {
            let point = document.point.as_deref().unwrap_or("it");
            note(format_args!("serving {point} in the background as {id}"));
            note(format_args!("  {}", document.place.as_deref().unwrap_or_default()));
            note(format_args!("`sluice unmount {id}` ends it"));
        }
    }
    if let Some(end) = &document.lease_end {
        note(format_args!("it ends by itself at {end}; `sluice mounts renew {id}` moves that"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_from_what_may_be_stored() {
        let all = [
            ("SLUICE_REPO", "/r"),
            ("SLUICE_PASSPHRASE", "a"),
            ("SLUICE_MOUNTD_STATE", "/s"),
            ("AWS_REGION", "eu"),
            ("AWS_ACCESS_KEY_ID", "b"),
            ("AWS_SECRET_ACCESS_KEY", "c"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/f"),
            ("OS_PASSWORD", "d"),
            ("HTTPS_PROXY", "http://user:word@proxy.test"),
            ("HOME", "/home/x"),
            ("EDITOR", "vi"),
            ("XDG_CACHE_HOME", ""),
        ];
        let (stored, secrets) =
            environment(all.into_iter().map(|(name, value)| (name.into(), value.into()))).unwrap();
        let names = |map: &BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
        let files = "AWS_SHARED_CREDENTIALS_FILE";
        assert_eq!(names(&stored), ["AWS_REGION", files, "HOME", "SLUICE_REPO"]);
        assert_eq!(
            names(&secrets),
            [
                "AWS_ACCESS_KEY_ID",
                "AWS_SECRET_ACCESS_KEY",
                "HTTPS_PROXY",
                "OS_PASSWORD",
                "SLUICE_PASSPHRASE"
            ]
        );
    }

    #[test]
    fn a_passphrase_file_makes_the_variable_needless() {
        let all = [("SLUICE_PASSPHRASE", "a"), ("SLUICE_PASSPHRASE_FILE", "/f")];
        let (stored, secrets) =
            environment(all.into_iter().map(|(name, value)| (name.into(), value.into()))).unwrap();
        assert!(secrets.is_empty() && stored.len() == 1);
    }
}
