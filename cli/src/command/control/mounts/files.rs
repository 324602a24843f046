//! Files of a mount, listed and downloaded through the server.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use http::header::CONTENT_LENGTH;
use sluice_engine::Snapshot;
use sluice_node_api::{Client, Download};
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;

use super::super::filter::encoded;
use super::super::{all, show_list, word};
use super::path as mount;
use crate::args::{DownloadArgs, Global};
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};
use crate::interrupt;
use crate::output::progress::{Shower, Shown};
use crate::output::{self, local, note};

/// Lists what a folder holds.
pub(super) async fn list(
    context: &Context,
    client: &Client,
    id: &str,
    folder: &str,
) -> Result<Exit> {
    let items = all(client, &format!("{}/files?path={}", mount(id), encoded(folder))).await?;
    let headings = ["KIND", ">SIZE", "CHANGED", "NAME"];
    show_list(context, &headings, &items, |entry| {
        let changed = local(entry["modified_ms"].as_u64().unwrap_or(0), &context.zone);
        let mut name = word(entry, "name");
        if let Some(target) = entry["target"].as_str() {
            name = format!("{name} -> {target}");
        }
        vec![word(entry, "kind"), entry["size"].to_string(), changed, name]
    })
}

/// Downloads a file. Where it is to go, there is all of it, or what was there before.
pub(super) async fn download(
    context: &Context,
    client: &Client,
    args: &DownloadArgs,
) -> Result<Exit> {
    let to = match &args.output {
        Some(to) => to.clone(),
        None => own_name(&args.path)?,
    };
    let place = match to.as_os_str() == "-" {
        true => None,
        false => Some(Place::of(&to, args.overwrite)?),
    };
    let asked = format!("{}/content?path={}", mount(&args.id), encoded(&args.path));
    let stop = interrupt::watch("stopping (again to stop at once)")?;
    let download = client.open(&asked, &[]).await?;
    let Some(place) = place else {
        // Nothing but the file goes there.
        let shown = (!context.global.json).then_some(&context.global);
        copy(shown, download, &mut io::stdout().lock(), &stop).await?;
        return Ok(Exit::Done);
    };
    let mut file = place.begin()?;
    let bytes = copy(Some(&context.global), download, file.as_file_mut(), &stop).await?;
    place.end(file)?;
    if context.global.json {
        output::json(&serde_json::json!({"path": args.path, "output": to, "bytes": bytes}))?;
    } else if !context.global.quiet {
        note(format_args!("{}: {bytes} bytes", to.display()));
    }
    Ok(Exit::Done)
}

/// Where a file is to lie.
#[derive(Debug)]
struct Place {
    /// Behind all links.
    path: PathBuf,
    /// How the file may be used that is replaced.
    replaced: Option<Permissions>,
}

impl Place {
    /// Refuses what is no file, and a file that is not to be replaced.
    fn of(to: &Path, overwrite: bool) -> Result<Self> {
        let found = match std::fs::metadata(to) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path: to.to_owned(), replaced: None });
            }
            Err(error) => return Err(error).with_context(|| failed(to)),
        };
        if !found.is_file() {
            let text = format!("{} is no file", to.display());
            let help = "--output - writes to standard output, which may be anything";
            return Err(advise("target", text, help));
        }
        if !overwrite {
            let text = format!("{} exists already", to.display());
            return Err(advise("target", text, "add --overwrite to write over it"));
        }
        let path = std::fs::canonicalize(to).with_context(|| failed(to))?;
        Ok(Self { path, replaced: Some(found.permissions()) })
    }

    /// A file beside it, which is removed if it does not become this one. It may be used as any
    /// other that its user makes.
    fn begin(&self) -> Result<NamedTempFile> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut builder = tempfile::Builder::new();
        let made = builder.permissions(Permissions::from_mode(0o666));
        let file = made.tempfile_in(folder.unwrap_or(Path::new(".")));
        let file = file.with_context(|| failed(&self.path))?;
        if let Some(replaced) = &self.replaced {
            let set = file.as_file().set_permissions(replaced.clone());
            set.with_context(|| failed(&self.path))?;
        }
        Ok(file)
    }

    fn end(&self, file: NamedTempFile) -> Result<File> {
        let ended = match self.replaced {
            Some(_) => file.persist(&self.path),
            None => file.persist_noclobber(&self.path),
        };
        ended.with_context(|| failed(&self.path))
    }
}

fn failed(to: &Path) -> String {
    format!("cannot write {}", to.display())
}

/// The name of a file in this folder that is called as its path ends.
fn own_name(path: &str) -> Result<PathBuf> {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if ["", ".", ".."].contains(&name) {
        return Err(usage_error("name the file to download, as it is listed"));
    }
    Ok(PathBuf::from(name))
}

/// Writes all of it, and tells how far it is; how many bytes it was.
async fn copy(
    shown: Option<&Global>,
    mut download: Download,
    to: &mut impl Write,
    stop: &CancellationToken,
) -> Result<u64> {
    let length = download.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let total = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    let done = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&done);
    let snapshot = move || {
        let done = counted.load(Ordering::Relaxed);
        Snapshot { total, done, read: done, written: done, ..Snapshot::default() }
    };
    let shower = shown.map(|global| Shower::watch(global, Shown::Plain, snapshot));
    let written = async {
        while let Some(piece) = download.piece().await? {
            to.write_all(&piece)?;
            done.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        to.flush()?;
        anyhow::Ok(())
    };
    let written = tokio::select! {
        written = written => written.context("the download is not whole"),
        () = stop.cancelled() => {
            Err(advise("cancelled", "the download was stopped", "nothing of it is left"))
        }
    };
    drop(shower);
    written?;
    Ok(done.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_this_folder() {
        assert_eq!(own_name("/shop.web/latest/root.raw").unwrap(), Path::new("root.raw"));
        assert!(["", "/", "a/..", "."].iter().all(|bad| own_name(bad).is_err()));
    }

    #[test]
    fn a_file_is_replaced_when_that_is_wanted_and_nothing_else_ever_is() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("old"), "old").unwrap();
        std::fs::set_permissions(at("old"), Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(at("old"), at("link")).unwrap();
        assert!(Place::of(&at("old"), false).is_err(), "it is there already");
        for odd in [Path::new("/dev/null"), folder.path()] {
            assert!(Place::of(odd, true).is_err(), "{}", odd.display());
        }
        let write = |to: &Path, overwrite: bool| {
            let place = Place::of(to, overwrite).unwrap();
            let mut file = place.begin().unwrap();
            file.write_all(b"new").unwrap();
            place.end(file).unwrap().metadata().unwrap().permissions().mode() & 0o777
        };
        assert_eq!(write(&at("link"), true), 0o640);
        assert_eq!(std::fs::read_to_string(at("old")).unwrap(), "new");
        assert!(at("link").symlink_metadata().unwrap().is_symlink());
        // As of any other file: what the umask leaves.
        let usual = File::create(at("usual")).unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(write(&at("new"), false), usual & 0o777);
        // What came meanwhile stays, and nothing is left of what was not wanted.
        let place = Place::of(&at("late"), false).unwrap();
        let file = place.begin().unwrap();
        std::fs::write(at("late"), "of somebody").unwrap();
        assert!(place.end(file).is_err());
        assert_eq!(std::fs::read_to_string(at("late")).unwrap(), "of somebody");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 5);
    }
}
