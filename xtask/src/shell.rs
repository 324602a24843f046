//! shellcheck over every shell script.

use anyhow::{Context, Result};

use crate::host;

/// Finds the scripts by their first line, and checks them.
pub fn run() -> Result<()> {
    let Some(tool) = host::find_tool("shellcheck") else {
        return host::missing_tool("shellcheck");
    };
    let mut scripts = Vec::new();
    for name in host::tracked_files()? {
        let bytes = std::fs::read(host::root().join(&name))
            .with_context(|| format!("cannot read {name}"))?;
        if is_shell(&bytes) {
            scripts.push(name);
        }
    }
    host::run(host::command(tool).args(["--severity", "warning"]).args(scripts))
}

fn is_shell(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    line.starts_with(b"#!") && (line.ends_with(b"bash") || line.ends_with(b"/sh"))
}

#[cfg(test)]
mod tests {
    use super::is_shell;

    #[test]
    fn scripts_are_known_by_their_first_line() {
        assert!(is_shell(b"#!/usr/bin/env bash\nset -e\n"));
        assert!(is_shell(b"#!/bin/sh\n"));
        assert!(!is_shell(b"#!/usr/bin/env python3\n"));
        assert!(!is_shell(b"# bash\n#!/bin/bash\n"));
    }
}
