//! Telling a parent process that clients can connect.

use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::{Context, Result};

use crate::error::usage_error;

/// An inherited file descriptor that is told once, then closed.
#[derive(Debug)]
pub(crate) struct Ready(File);

impl Ready {
    /// Takes the descriptor over. To be called before the process opens anything.
    pub(crate) fn claim(number: i32) -> Result<Self> {
        let open = number > 2 && std::fs::exists(format!("/proc/self/fd/{number}"))?;
        if !open {
            return Err(usage_error(format!(
                "file descriptor {number} of --ready-fd is not open; open it as {number}>FILE"
            )));
        }
        // SAFETY: the descriptor is open (checked above) and not a standard one. The process has
        // opened nothing yet, so it was inherited, and nothing else here owns it.
        #[expect(unsafe_code, reason = "there is no safe way to own an inherited descriptor")]
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        Ok(Self(File::from(descriptor)))
    }

    /// Says `READY=1` and where, and closes the descriptor.
    pub(crate) fn tell(mut self, place: &str) -> Result<()> {
        self.0
            .write_all(format!("READY=1\n{place}\n").as_bytes())
            .context("cannot write to the descriptor of --ready-fd")
    }
}
