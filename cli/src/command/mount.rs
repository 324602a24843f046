//! Mounting in the foreground.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sluice_fuse::{MountOptions, mount};

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
    let catalogue = RepositoryCatalogue::new(repository, statistics, written.clone());
    let options = MountOptions {
        read_timeout: args.timeout,
        allow_other: args.allow_other,
        writable: args.writable,
        source: context.repo()?.to_owned(),
        ..MountOptions::default()
    };
    let mounted = mount(catalogue.clone(), &dir, options).await.with_context(|| cannot(&dir))?;
    tell(context, &dir, ready)?;
    tokio::select! {
        () = mounted.ended() => {}
        () = stop.cancelled() => {}
    }
    let unmounted = mounted.unmount().await;
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

fn tell(context: &Context, dir: &Path, ready: Option<Ready>) -> Result<()> {
    if let Some(ready) = ready {
        ready.tell(&dir.display().to_string())?;
    }
    if context.global.json {
        output::event(&serde_json::json!({"type": "ready", "mounted": dir}))?;
    } else if !context.global.quiet {
        let shown = dir.display();
        note(format_args!("mounted on {shown}; Ctrl-C or `sluice unmount {shown}` ends it"));
    }
    Ok(())
}
