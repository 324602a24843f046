use anyhow::Result;

use crate::args::{Global, MountArgs, UnmountArgs};
use crate::context::Context;
use crate::error::{Exit, usage_error};
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
