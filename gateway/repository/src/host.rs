//! Who and where this process is, for sessions and pins.

use std::fs;

/// The host's name.
pub(crate) fn name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".into(), |name| name.trim().to_owned())
}

/// Where process numbers mean the same: host, boot, and process namespace.
pub(crate) fn scope() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = fs::read_link("/proc/self/ns/pid")
        .map_or_else(|_| String::new(), |link| link.to_string_lossy().into_owned());
    format!("{}/{}/{space}", name(), boot.trim())
}

/// The host's name in a scope.
pub(crate) fn display(scope: &str) -> String {
    scope.split('/').next().unwrap_or(scope).to_owned()
}

/// When a process of this host started, in clock ticks since boot; nothing when there is no
/// such process. Together with the number it tells a process from a later one.
pub(crate) fn process_start(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything, so count fields from its end.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_runs_and_an_impossible_one_does_not() {
        assert!(process_start(std::process::id()).is_some());
        assert!(process_start(u32::MAX).is_none());
        assert!(!name().is_empty());
    }
}
