//! What may be linked in, by `deny.toml` and cargo-deny.

use anyhow::Result;

use crate::host;

/// Licences, banned crates and sources. Advisories are left out: they need a database from the
/// network that changes daily, so they cannot be part of a gate that must give the same answer
/// twice; `cargo deny check advisories` runs them by hand.
pub fn run() -> Result<()> {
    let Some(tool) = host::find_tool("cargo-deny") else {
        return host::missing_tool("cargo-deny");
    };
    let args = ["--locked", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"];
    host::run(host::command(tool).args(args))
}
