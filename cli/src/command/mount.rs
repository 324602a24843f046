//! Mounting: in the foreground, or as a background process of its own.
//!
//! `--detach` starts the same command again without it, in the environment that names
//! [`DETACHED`], with a pipe as its standard output. The new process says READY there once it is
//! mounted, and then leaves the terminal; until then, its errors are those of the command.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use sluice_fuse::{MountOptions, mount};

use crate::adapter::RepositoryCatalogue;
use crate::args::{MountArgs, UnmountArgs};
use crate::context::Context;
use crate::error::{Advice, Exit, usage_error};
use crate::interrupt;
use crate::output::{self, note};
use crate::ready::Ready;

/// Set in the environment of the background process.
const DETACHED: &str = "SLUICE_DETACHED";
/// What the background process says once it is mounted.
const READY: &str = "READY=1\n";

/// Mounts, and serves until unmounted or interrupted.
pub(crate) async fn run(
    context: &mut Context,
    args: MountArgs,
    ready: Option<Ready>,
) -> Result<Exit> {
    let dir = match args.places.as_slice() {
        [dir] => PathBuf::from(dir),
        [repo, dir] => {
            context.global.repo = Some(repo.clone());
            PathBuf::from(dir)
        }
        _ => return Err(usage_error("name the repository and the folder to mount on")),
    };
    let stop = interrupt::watch("")?;
    let repository = context.open().await?;
    let catalogue = RepositoryCatalogue::new(repository);
    let options = MountOptions {
        read_timeout: args.timeout,
        allow_other: args.allow_other,
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
    unmounted.with_context(|| cannot(&dir))?;
    Ok(Exit::Done)
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
    if std::env::var_os(DETACHED).is_some() {
        output::print(READY)?;
        return leave_terminal();
    }
    if context.global.json {
        output::event(&serde_json::json!({"type": "ready", "mounted": dir}))?;
    } else if !context.global.quiet {
        let shown = dir.display();
        note(format_args!("mounted on {shown}; Ctrl-C or `sluice unmount {shown}` ends it"));
    }
    Ok(())
}

/// Lets go of the terminal and of whoever waits for the outputs to be closed.
fn leave_terminal() -> Result<()> {
    let context = "cannot go to the background";
    let nothing = std::fs::File::options().read(true).write(true).open("/dev/null");
    let nothing = nothing.context(context)?;
    rustix::stdio::dup2_stdin(&nothing).context(context)?;
    rustix::stdio::dup2_stdout(&nothing).context(context)?;
    rustix::stdio::dup2_stderr(&nothing).context(context)?;
    // A process that leads its group already needs no session of its own.
    let _ = rustix::process::setsid();
    Ok(())
}

/// Starts the background process and waits until it is mounted or has failed.
pub(crate) fn detach(args: &MountArgs, json: bool, quiet: bool) -> Result<Exit> {
    let context = "cannot start the background process";
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_else(|| OsString::from("sluice"));
    let mut command = Command::new(std::env::current_exe().context(context)?);
    command
        .arg0(name)
        .args(words.filter(|word| word != "--detach"))
        .env(DETACHED, "1")
        .stdout(Stdio::piped());
    let mut child = command.spawn().context(context)?;
    let mut said = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        // Ends when the process is ready, for it then lets go of the pipe, or when it is over.
        pipe.read_to_string(&mut said).context(context)?;
    }
    if !said.ends_with(READY) {
        // It told its error itself: on stderr, or here as a document.
        output::print(&said)?;
        let code = child.wait().context(context)?.code();
        return Ok(code.and_then(Exit::from_code).unwrap_or(Exit::Failed));
    }
    let dir = args.places.last().map_or("", String::as_str);
    if json {
        output::json(&serde_json::json!({"mounted": dir, "process": child.id()}))?;
    } else if !quiet {
        note(format_args!("mounted on {dir}; `sluice unmount {dir}` ends it"));
    }
    Ok(Exit::Done)
}

/// Unmounts.
pub(crate) fn unmount(args: &UnmountArgs) -> Result<Exit> {
    let dir = std::path::absolute(&args.dir)?;
    match sluice_fuse::unmount(&dir) {
        Ok(()) => Ok(Exit::Done),
        Err(error) => {
            let shown = dir.display();
            let help = format!("`findmnt {shown}` tells what is mounted there");
            let message = format!("cannot unmount {shown}");
            Err(anyhow::Error::from(error).context(Advice::new("mount", message, help)))
        }
    }
}
