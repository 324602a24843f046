//! A command of a recovery plan or around a backup, with a bound on its time and a rule on how it
//! may end.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use crate::args::RunScriptArgs;
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};
use crate::output::{self, note};
use crate::{interrupt, leash};

/// A line of what it writes is cut off here, in bytes.
const LONGEST: u64 = 4 << 10;

/// Runs it.
pub(crate) async fn run(context: &Context, args: RunScriptArgs) -> Result<Exit> {
    let stop = interrupt::watch("ending the command")?;
    let (program, words) = args.command.split_first().context("there is no command")?;
    let mut command = leash::tether(Path::new(program));
    command.args(words).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // What it starts ends with it.
    command.process_group(0);
    let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(group) = group {
        leash::take_along(group);
    }
    let said = [pass_on(child.stdout.take()), pass_on(child.stderr.take())];
    let status = tokio::select! {
        status = child.wait() => Some(status.context("cannot wait for it")?),
        () = tokio::time::sleep(args.timeout) => None,
        () = stop.cancelled() => None,
    };
    if let Some(group) = group {
        // It may be gone already, and what it has left behind is not.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.kill().await;
    for one in said.into_iter().flatten() {
        let _ = one.await;
    }
    let Some(status) = status else {
        let text = format!("{program} was ended: it took longer than it may, or was to stop");
        return Err(advise("failed", text, "see the log of the task, or give it more time"));
    };
    let code = status.code();
    if code.is_some_and(|code| args.warn.contains(&code)) {
        if context.global.json {
            output::json(&json!({"exit_code": code}))?;
        }
        return Ok(Exit::Warnings);
    }
    let fine = match (&args.accept[..], code) {
        ([], Some(0)) => true,
        (accept, Some(code)) => accept.contains(&code),
        (_, None) => false,
    };
    if !fine {
        // Wrong usage is not tried again, and neither is this: it may have done something.
        return Err(usage_error(format!("{program} ended with {status}")));
    }
    if context.global.json {
        output::json(&json!({"exit_code": code}))?;
    }
    Ok(Exit::Done)
}

/// Writes what comes out of a pipe to standard error, line by line.
fn pass_on(
    from: Option<impl AsyncRead + Unpin + Send + 'static>,
) -> Option<tokio::task::JoinHandle<()>> {
    let mut from = BufReader::new(from?);
    Some(tokio::spawn(async move {
        loop {
            let mut line = Vec::new();
            let read = (&mut from).take(LONGEST).read_until(b'\n', &mut line).await;
            if read.is_err() || line.is_empty() {
                return;
            }
            note(String::from_utf8_lossy(&line).trim_end());
        }
    }))
}
