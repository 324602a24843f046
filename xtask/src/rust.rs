//! Steps that are one call of a Rust tool.

use anyhow::Result;

use crate::host;

/// Formatting, by the checked-in `rustfmt.toml`.
pub fn fmt() -> Result<()> {
    host::run(host::cargo().args(["fmt", "--all", "--check"]))?;
    // The fuzz targets are a workspace of their own.
    host::run(host::cargo().args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))
}

/// Lints over libraries, executables and tests.
pub fn clippy() -> Result<()> {
    let args = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    host::run(host::cargo().args(args))
}

/// The documentation builds, and its links lead somewhere.
pub fn doc() -> Result<()> {
    let mut cargo = host::cargo();
    cargo.args(["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings");
    host::run(&mut cargo)
}
