//! Ending with whoever started this process: a node keeps a pipe to the standard input of its
//! tasks, and nothing of them may run on when the node was killed.
//!
//! ```text
//! stdin   allowance 1048576\n     a backup may store so much from now on
//!         end of file             it is to end, or the node is gone
//! ```
//!
//! What such a process starts itself, and what knows no leash, is *tethered*: it is started through
//! this executable, which asks the kernel to kill it with its parent and then becomes it.

use std::ffi::OsString;
use std::io::{self, BufRead, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use rustix::process::{Pid, Signal, getppid, kill_process_group, set_parent_process_death_signal};
use sluice_repository::Allowance;

use crate::error::Exit;

/// Set for the processes of tasks.
const LEASH: &str = "SLUICE_LEASH";
/// Set for a process that is to become another one; the number of its parent.
const TETHER: &str = "SLUICE_TETHER";

/// This executable, also when another was installed in its place, or none is there any more.
const OWN: &str = "/proc/self/exe";

/// A line from the node is not longer than this.
const LONGEST: u64 = 4 << 10;

/// What a backup of this process may store.
static ALLOWANCE: LazyLock<Arc<Allowance>> = LazyLock::new(Arc::default);
/// Folders that end with this process.
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
/// Groups of processes that do.
static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Ends the process at the end of standard input, if it is on a leash. At once: a killed backup
/// leaves no restore point, and its next run finds what was stored.
pub(crate) fn hold() {
    if std::env::var_os(LEASH).is_none_or(|set| set.is_empty()) {
        return;
    }
    std::thread::spawn(|| {
        let (mut stdin, mut line) = (io::stdin().lock(), String::new());
        while (&mut stdin).take(LONGEST).read_line(&mut line).is_ok_and(|read| read > 0) {
            hear(&line);
            line.clear();
        }
        end();
    });
}

/// Ends the process at once, with all that goes with it.
pub(crate) fn end() -> ! {
    end_others();
    std::process::exit(Exit::Failed as i32)
}

fn end_others() {
    for group in GROUPS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ = kill_process_group(*group, Signal::KILL);
    }
    let folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    for folder in folders.iter() {
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// What a backup of this process may store: as much as it wants, until somebody says otherwise.
pub(crate) fn allowance() -> Arc<Allowance> {
    Arc::clone(&ALLOWANCE)
}

/// What the node says while this process runs. What a newer one may say is not for this release.
fn hear(line: &str) {
    let bytes = line.trim().strip_prefix("allowance ").and_then(|bytes| bytes.parse().ok());
    if let Some(bytes) = bytes {
        ALLOWANCE.set(bytes);
    }
}

/// Removes a folder, too, when the leash or a second signal ends this process.
pub(crate) fn leave_nothing_of(folder: &Path) {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).push(folder.to_owned());
}

/// Kills a group of processes, too, when the leash or a second signal ends this process.
pub(crate) fn take_along(group: Pid) {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner).push(group);
}

/// Forgets a group that has ended: another may be called so.
pub(crate) fn let_go(group: Pid) {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner).retain(|one| *one != group);
}

/// A command that is killed with the thread that starts it: it must be the main one, or another
/// that stays as long.
pub(crate) fn tether(program: &Path) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(OWN);
    command.arg(program).env(TETHER, std::process::id().to_string()).env_remove(LEASH);
    command
}

/// Becomes what the arguments name, if this process is tethered. Returns only why it cannot.
pub(crate) fn tethered() -> Option<io::Error> {
    let parent = std::env::var(TETHER).ok()?;
    Some(become_other(&parent))
}

fn become_other(parent: &str) -> io::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // It may have died before the kernel was asked.
    let own = getppid().map(Pid::as_raw_nonzero).map(|number| number.to_string());
    if own.as_deref() != Some(parent) {
        return io::Error::other("whoever started this process is gone");
    }
    let mut words = std::env::args_os().skip(1);
    let program = words.next().unwrap_or_else(|| OsString::from("false"));
    Command::new(program).args(words).env_remove(TETHER).exec()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn what_goes_with_this_process_ends_with_all_that_it_has_started() {
        let folder = tempfile::tempdir().unwrap();
        leave_nothing_of(&folder.path().join("own"));
        std::fs::create_dir(folder.path().join("own")).unwrap();
        // A program that has started another one, which holds the pipe.
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 86400 & wait"]).stdout(std::process::Stdio::piped());
        let mut child = command.process_group(0).spawn().unwrap();
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        take_along(group);
        end_others();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        let mut pipe = child.stdout.take().unwrap();
        assert_eq!(pipe.read(&mut [0]).unwrap(), 0, "nobody holds it any more");
        assert!(!folder.path().join("own").exists());
        let_go(group);
    }
}
