//! Mounting: in the foreground, or as a background process of its own.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::args::{Global, MountArgs, UnmountArgs};
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};
use crate::output::{self, note};
use crate::ready::Ready;

pub(crate) async fn run(
    _context: &mut Context,
    _args: MountArgs,
    _ready: Option<Ready>,
) -> Result<Exit> {
    Err(usage_error("not built in"))
}
pub(crate) fn detach(_global: &Global) -> Result<Exit> {
    Err(usage_error("not built in"))
}
pub(crate) fn unmount(_args: &UnmountArgs) -> Result<Exit> {
    Err(usage_error("not built in"))
}
