//! Mounting in the foreground.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sluice_fuse::{MountOptions, file_name, mount};
use sluice_repository::RestorePoint;

use crate::adapter::overlay::folder;
use crate::adapter::{RepositoryCatalogue, Written};
use crate::args::MountArgs;
use crate::context::Context;
use crate::error::{Advice, Exit, usage_error};
use crate::interrupt;
use crate::output::{self, note};
use crate::ready::Ready;

/// Mounts, and serves until unmounted or interrupted.
pub(crate) async fn run(
    context: &mut Context,
    args: MountArgs,
    ready: Option<Ready>,
) -> Result<Exit> {
    let (repo, dir) = places(&args)?;
    if let Some(repo) = repo {
        context.global.repo = Some(repo);
    }
    let stop = interrupt::watch("")?;
    let repository = context.open().await?;
    let written = match (args.writable, &args.overlays) {
        (false, _) => None,
        (true, Some(dir)) => Some(std::path::absolute(dir)?),
        (true, None) => Some(folder()?),
    };
    let written = written.map(|dir| Written::new(repository.clone(), dir, args.overlay_limit));
    let statistics = context.statistics.clone();
    let only = match &args.point {
        Some(text) => Some(context.point(&repository, text).await?),
        None => None,
    };
    // One point is there to stay, though nobody reads it now.
    let (only, pin) = match only {
        Some((_, Some(_))) => return Err(usage_error("--point is a restore point, not an image")),
        Some((point, None)) => {
            let pin = repository.pin(&point, "mount").await?;
            (Some(point), Some(pin))
        }
        None => (None, None),
    };
    let catalogue = RepositoryCatalogue::new(repository, statistics, written.clone(), only.clone());
    let options = MountOptions {
        read_timeout: args.timeout,
        allow_other: args.allow_other,
        writable: args.writable,
        source: context.repo()?.to_owned(),
        ..MountOptions::default()
    };
    let serving = async {
        let mounted = mount(catalogue.clone(), &dir, options).await?;
        let told = tell(context, &dir, only.as_ref(), ready);
        if told.is_ok() {
            tokio::select! {
                () = mounted.ended() => {}
                () = stop.cancelled() => {}
            }
        }
        let unmounted = mounted.unmount().await;
        anyhow::Ok((told, unmounted))
    };
    let served = serving.await;
    if let Some(pin) = pin {
        pin.release().await;
    }
    let (told, unmounted) = served.with_context(|| cannot(&dir))?;
    told?;
    catalogue.close().await;
    if let Some(written) = written {
        written.close().await.context("what was written last may not be durable")?;
    }
    unmounted.with_context(|| cannot(&dir))?;
    Ok(Exit::Done)
}

/// The repository, if it is among the arguments, and the folder.
pub(crate) fn places(args: &MountArgs) -> Result<(Option<String>, PathBuf)> {
    match args.places.as_slice() {
        [dir] => Ok((None, PathBuf::from(dir))),
        [repo, dir] => Ok((Some(repo.clone()), PathBuf::from(dir))),
        _ => Err(usage_error("name the repository and the folder to mount on")),
    }
}

fn cannot(dir: &Path) -> Advice {
    Advice::new(
        "mount",
        format!("mounting on {} failed", dir.display()),
        "name an empty folder; FUSE needs /dev/fuse, and without root the package fuse3",
    )
}

/// A file of the mount, for programs that take URIs.
fn file_uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut uri = "file://".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

/// What is told of a mount of one point.
fn told_of(dir: &Path, point: &RestorePoint) -> serde_json::Value {
    let folder = dir.join(file_name(&point.instance)).join(output::folder_name(point));
    let exports = point.images.iter().map(|image| {
        let file = folder.join(format!("{}.raw", file_name(&image.name)));
        serde_json::json!({"name": image.name, "uri": file_uri(&file)})
    });
    let exports: Vec<_> = exports.collect();
    serde_json::json!({"type": "ready", "mounted": dir, "point": point.to_string(),
        "uri": file_uri(dir), "exports": exports})
}

fn tell(
    context: &Context,
    dir: &Path,
    only: Option<&RestorePoint>,
    ready: Option<Ready>,
) -> Result<()> {
    if let Some(ready) = ready {
        ready.tell(&dir.display().to_string())?;
    }
    if context.global.json {
        let all = || serde_json::json!({"type": "ready", "mounted": dir});
        output::event(&only.map_or_else(all, |point| told_of(dir, point)))?;
    } else if !context.global.quiet {
        let shown = dir.display();
        note(format_args!("mounted on {shown}; Ctrl-C or `sluice unmount {shown}` ends it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_uris_whatever_is_in_them() {
        let uri = file_uri(Path::new("/srv/a b/50%/web-1_x.raw"));
        assert_eq!(uri, "file:///srv/a%20b/50%25/web-1_x.raw");
    }
}
