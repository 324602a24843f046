//! Starting the servers that tests speak to, or finding those that run.

#[path = "settings.rs"]
mod settings;

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

/// Runs a script of `tests/lab`, which starts a server or finds the one it started before, and
/// returns the variables it sets. `otherwise` says what to do without it.
pub fn start(script: &str, otherwise: &str) -> HashMap<String, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/lab").join(script);
    let run = Command::new(&script).output();
    let run = run.unwrap_or_else(|error| panic!("cannot run {}: {error}", script.display()));
    assert!(
        run.status.success(),
        "{} failed: {}\n{otherwise}",
        script.display(),
        String::from_utf8_lossy(&run.stderr)
    );
    let file = String::from_utf8(run.stdout).unwrap();
    settings::settings(&std::fs::read_to_string(file.trim()).unwrap())
}
