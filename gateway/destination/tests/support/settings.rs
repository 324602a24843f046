//! What a lab's script leaves behind.

use std::collections::HashMap;

/// The variables that lines of a shell script export.
pub fn settings(script: &str) -> HashMap<String, String> {
    let setting = |line: &str| {
        let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('\'').to_owned()))
    };
    script.lines().filter_map(setting).collect()
}
