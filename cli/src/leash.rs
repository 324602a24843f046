//! Ending with whoever started this process: a node keeps a pipe to the standard input of its
//! tasks, and nothing of them may run on when the node was killed.

use std::io::Read;

use crate::error::Exit;

/// Set for the processes of tasks.
const LEASH: &str = "SLUICE_LEASH";

/// Ends the process at the end of standard input, if it is on a leash. At once: a killed backup
/// leaves no restore point, and its next run finds what was stored.
pub(crate) fn hold() {
    if std::env::var_os(LEASH).is_none_or(|set| set.is_empty()) {
        return;
    }
    std::thread::spawn(|| {
        let mut rest = [0; 64];
        while std::io::stdin().lock().read(&mut rest).is_ok_and(|read| read > 0) {}
        std::process::exit(Exit::Failed as i32);
    });
}
