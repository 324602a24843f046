//! Text rules over every tracked file.
//!
//! rustfmt and clippy judge code; these rules judge what they do not see: the size of files, names
//! of places that exist on one machine only, links in the documentation that lead nowhere.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::host;

/// Longest line in Rust code. rustfmt breaks code, but not texts and comments.
const MAX_COLUMNS: usize = 100;
/// Longest Rust file. Past this a file holds more than one idea.
const MAX_LINES: usize = 600;

/// Words that must not be committed, and why.
const BANNED: &[(&str, &str)] = &[
    ("/work/", "a path of one machine"),
    ("TODO", "finish it, or write it down where work is planned"),
    ("FIXME", "fix it, or write it down where work is planned"),
    ("<<<<<<< ", "an unfinished merge"),
    (">>>>>>> ", "an unfinished merge"),
    ("index-url", "packages come from the public registries as each machine sets them up"),
    ("-----BEGIN PRIVATE KEY", "a secret; tests make their keys when they run"),
];

/// This file has to name them.
const EXEMPT: &str = "xtask/src/tidy.rs";

/// Checks all files that git tracks, or would track.
pub fn run() -> Result<()> {
    let mut problems = Vec::new();
    let files = host::tracked_files()?;
    for name in &files {
        let bytes = std::fs::read(host::root().join(name))
            .with_context(|| format!("cannot read {name}"))?;
        if let Ok(text) = std::str::from_utf8(&bytes) {
            problems.extend(check(name, text).into_iter().map(|what| format!("{name}{what}")));
            problems.extend(dead_links(name, text).into_iter().map(|what| format!("{name}{what}")));
            problems.extend(not_executable(name, text).map(|what| format!("{name}{what}")));
        }
    }
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} problems in {} files", problems.len(), files.len());
    }
    println!("{} files, all tidy", files.len());
    Ok(())
}

/// Rules that need only a file's name and text: each problem starts with `:LINE: `.
fn check(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let rust = name.ends_with(".rs");
    if rust && (name.ends_with("/mod.rs") || name == "mod.rs") {
        problems.push(": name the file after its module: foo.rs beside foo/".to_owned());
    }
    if rust && text.lines().count() > MAX_LINES {
        problems.push(format!(": more than {MAX_LINES} lines; split it"));
    }
    if !is_generated(name) && !text.is_empty() && !text.ends_with('\n') {
        problems.push(": the last line does not end".to_owned());
    }
    let mut in_tests = is_test_file(name);
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let mut found = |what: &str| problems.push(format!(":{number}: {what}"));
        in_tests |= line.trim() == "#[cfg(test)]";
        if rust && line.chars().count() > MAX_COLUMNS {
            found(&format!("more than {MAX_COLUMNS} columns"));
        }
        if rust && !in_tests && is_glob_import(line) {
            found("glob import; name what is used");
        }
        // Two spaces at the end of a line of Markdown are a line break, which nobody sees.
        if line.ends_with([' ', '\t', '\r']) && !is_generated(name) {
            found("white space at the end of the line");
        }
        if name != EXEMPT {
            for (word, why) in BANNED.iter().filter(|(word, _)| line.contains(word)) {
                found(&format!("{word:?}: {why}"));
            }
        }
    }
    problems
}

fn is_test_file(name: &str) -> bool {
    let stem = name.rsplit('/').next().unwrap_or(name).trim_end_matches(".rs");
    name.split('/').any(|part| part == "tests") || stem == "tests" || stem.ends_with("_tests")
}

/// Texts that are kept as they were given: licences, fixtures, seeds of the fuzz targets.
fn is_generated(name: &str) -> bool {
    name == "LICENSE"
        || name.ends_with(".lock")
        || name.contains("/fixtures/")
        || name.starts_with("fuzz/seeds/")
}

fn is_glob_import(line: &str) -> bool {
    let line = line.trim_start();
    let import = line.strip_prefix("pub ").unwrap_or(line).strip_prefix("use ");
    import.is_some_and(|path| path.trim_end().ends_with("::*;"))
}

/// Links of a Markdown file to files that are not there.
fn dead_links(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if !name.ends_with(".md") {
        return problems;
    }
    let folder = host::root().join(name).parent().map(Path::to_owned).unwrap_or_default();
    for (number, line) in text.lines().enumerate() {
        for part in line.split("](").skip(1) {
            let target = part.split([')', '#', ' ']).next().unwrap_or_default();
            let elsewhere = target.is_empty() || target.contains("://");
            if !elsewhere && !folder.join(target).exists() {
                problems.push(format!(":{}: no file {target:?}", number + 1));
            }
        }
    }
    problems
}

/// A script that one cannot start.
fn not_executable(name: &str, text: &str) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let script = text.starts_with("#!/") && !name.ends_with(".rs");
    let mode = std::fs::metadata(host::root().join(name)).ok()?.permissions().mode();
    (script && mode & 0o111 == 0).then(|| ": a script that is not executable".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{check, dead_links};

    #[test]
    fn plain_code_passes() {
        assert_eq!(check("a/src/lib.rs", "use std::fmt;\n\nfn f() {}\n"), [""; 0]);
    }

    #[test]
    fn long_lines_and_long_files_are_found_in_rust_only() {
        let long = format!("// {}\n", "x".repeat(98));
        assert_eq!(check("a.rs", &long), [":1: more than 100 columns"]);
        assert_eq!(check("a.md", &long), [""; 0]);
        let lines = "x();\n".repeat(601);
        assert_eq!(check("a.rs", &lines), [": more than 600 lines; split it"]);
    }

    #[test]
    fn columns_are_characters_and_not_bytes() {
        let line = format!("// {}\n", "ä".repeat(97));
        assert_eq!(check("a.rs", &line), [""; 0]);
    }

    #[test]
    fn glob_imports_are_for_tests() {
        let glob = "use crate::wire::*;\n";
        assert_eq!(check("a/src/lib.rs", glob).len(), 1);
        assert_eq!(check("a/tests/wire.rs", glob), [""; 0]);
        let module = "fn f() {}\n#[cfg(test)]\nmod tests {\n    use super::*;\n}\n";
        assert_eq!(check("a/src/lib.rs", module), [""; 0]);
    }

    #[test]
    fn words_of_one_machine_are_found() {
        let text = "a\nsee /work/shared\n";
        assert_eq!(check("docs/a.md", text), [":2: \"/work/\": a path of one machine"]);
    }

    #[test]
    fn mod_files_and_ragged_ends_are_found() {
        assert_eq!(check("a/mod.rs", "x \n").len(), 2);
        assert_eq!(check("a.md", "no end"), [": the last line does not end"]);
    }

    #[test]
    fn links_to_missing_files_are_found() {
        let text = "[a](../README.md) [b](https://example.org/x) [c](#top) [d](none.md#x)\n";
        assert_eq!(dead_links("docs/x.md", text), [":1: no file \"none.md\""]);
    }
}
