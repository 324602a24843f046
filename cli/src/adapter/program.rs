//! What a program prints as a source, such as the dump of a database.
//!
//! The end of its output is the end of the image only if it ended well: a dump that broke off
//! looks like a whole one. It is given nothing of what opens the repository, and does not outlive
//! this process.

use std::io;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use rustix::process::{Pid, Signal, kill_process_group};
use sluice_engine::StreamSource;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdout};

use crate::leash;

/// Variables of these families open repositories.
const SETTINGS: [&str; 7] = ["SLUICE_", "AWS_", "AZURE_", "GCS_", "GOOGLE_", "OS_", "ST_"];

/// The output of a program, read once to its end.
#[derive(Debug)]
pub(crate) struct ProgramOutput {
    program: String,
    child: Child,
    output: ChildStdout,
    group: Option<Pid>,
    /// Room that is handed out piece by piece.
    room: BytesMut,
    ended: bool,
}

impl ProgramOutput {
    /// Starts a program with its arguments. `of_task` says that a server set this process's
    /// variables: then the program is for somebody else than they are.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(words: &[String], of_task: bool) -> Result<Self> {
        let (program, arguments) = words.split_first().context("there is no program")?;
        let context = || format!("cannot start {program}");
        let mut command = leash::tether(Path::new(program));
        let hidden = if of_task { &SETTINGS[..] } else { &SETTINGS[..1] };
        for (name, _) in std::env::vars_os() {
            if hidden.iter().any(|family| name.to_string_lossy().starts_with(family)) {
                command.env_remove(name);
            }
        }
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        // What it starts ends with it, and Ctrl-C is for this process.
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().with_context(context)?;
        let output = child.stdout.take().with_context(context)?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(group) = group {
            leash::take_along(group);
        }
        let program = program.clone();
        Ok(Self { program, child, output, group, room: BytesMut::new(), ended: false })
    }
}

impl Drop for ProgramOutput {
    fn drop(&mut self) {
        if let Some(group) = self.group.filter(|_| !self.ended) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[async_trait]
impl StreamSource for ProgramOutput {
    async fn next(&mut self, most: usize) -> io::Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let most = most.clamp(1, 2 << 20);
        self.room.reserve(most);
        let mut limited = (&mut self.output).take(most as u64);
        let read = limited.read_buf(&mut self.room).await?;
        if read > 0 {
            return Ok(Some(self.room.split_to(read).freeze()));
        }
        let status = self.child.wait().await?;
        self.ended = true;
        if status.success() {
            return Ok(None);
        }
        let text = format!("{} ended with {status}, so its output is not whole", self.program);
        Err(io::Error::other(text))
    }
}
