//! What can be asked of `cargo xtask bench`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::data::MIB;

pub const USAGE: &str = "\
usage: cargo xtask bench [OPTION...]

  --size SIZE       size of the generated image [default: 4GiB]
  --rounds N        how often each tool does each thing [default: 3]
  --data KINDS      generated, real, or both with a comma [default: generated,real]
  --only TOOLS      these tools only, with commas: sluice, restic, borg, ... (sluice always runs)
  --no-peers        the same as --only sluice
  --with-rustic     also rustic, built from its crate (takes a quarter of an hour, once)
  --quick           a smoke run: 256MiB of generated data, one round
  --no-extras       leave out what only Sluice does
  --no-build        measure what was built before
  --dir DIR         where images and repositories are made [default: bench in the target folder]
  --json            print one JSON document instead of Markdown
  --write           put the result into docs/benchmarks.md too
";

/// A run as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Size of the generated image in bytes.
    pub size: u64,
    pub rounds: usize,
    pub generated: bool,
    pub real: bool,
    /// Names of the tools to run; all when empty.
    pub only: Vec<String>,
    pub rustic: bool,
    pub extras: bool,
    pub build: bool,
    pub dir: Option<PathBuf>,
    pub json: bool,
    pub write: bool,
}

impl Options {
    /// Reads the words after `bench`.
    ///
    /// # Errors
    /// When they make no sense.
    pub fn parse(args: &[&str]) -> Result<Self> {
        let mut options = Self {
            size: 4096 * MIB,
            rounds: 3,
            generated: true,
            real: true,
            only: Vec::new(),
            rustic: false,
            extras: true,
            build: true,
            dir: None,
            json: false,
            write: false,
        };
        if args.contains(&"--quick") {
            (options.size, options.rounds, options.real) = (256 * MIB, 1, false);
        }
        let mut args = args.iter();
        while let Some(&arg) = args.next() {
            let mut value =
                || args.next().with_context(|| format!("{arg} needs a value\n\n{USAGE}"));
            match arg {
                "--quick" => {}
                "--size" => options.size = size(value()?)?,
                "--rounds" => options.rounds = value()?.parse().context("--rounds is a number")?,
                "--data" => (options.generated, options.real) = kinds(value()?)?,
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                "--no-peers" => options.only = vec!["sluice".to_owned()],
                "--with-rustic" => options.rustic = true,
                "--no-extras" => options.extras = false,
                "--no-build" => options.build = false,
                "--dir" => options.dir = Some(value()?.into()),
                "--json" => options.json = true,
                "--write" => options.write = true,
                _ => bail!("no option {arg:?}\n\n{USAGE}"),
            }
        }
        ensure!(options.rounds > 0, "--rounds is at least 1");
        ensure!(options.size >= 16 * MIB, "--size is at least 16MiB");
        Ok(options)
    }

    /// Whether a tool takes part.
    pub fn wants(&self, tool: &str) -> bool {
        tool == "sluice" || self.only.is_empty() || self.only.iter().any(|name| name == tool)
    }
}

/// Bytes of `64MiB`, `2GiB`, or a plain number, rounded down to whole MiB.
fn size(text: &str) -> Result<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().with_context(|| format!("{text:?} is not a size"))?;
    let factor = match unit {
        "" => 1,
        "MiB" | "M" => MIB,
        "GiB" | "G" => 1024 * MIB,
        _ => bail!("{text:?} is not a size: 64MiB, 2GiB"),
    };
    let bytes = number.checked_mul(factor).with_context(|| format!("{text:?} is too much"))?;
    Ok(bytes / MIB * MIB)
}

fn kinds(text: &str) -> Result<(bool, bool)> {
    let (mut generated, mut real) = (false, false);
    for kind in text.split(',') {
        match kind {
            "generated" => generated = true,
            "real" => real = true,
            _ => bail!("no data called {kind:?}: generated, real"),
        }
    }
    Ok((generated, real))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("64MiB").unwrap(), 64 << 20);
        assert_eq!(size("2GiB").unwrap(), 2 << 30);
        assert_eq!(size("3145729").unwrap(), 3 << 20);
        assert!(size("2KB").is_err());
        assert!(size("GiB").is_err());
        assert!(size("99999999999999999999GiB").is_err());
    }

    #[test]
    fn what_stands_beside_quick_counts_more() {
        let options = Options::parse(&["--size", "64MiB", "--quick"]).unwrap();
        assert_eq!((options.size, options.rounds, options.real), (64 << 20, 1, false));
    }

    #[test]
    fn sluice_always_takes_part() {
        let options = Options::parse(&["--only", "restic,borg"]).unwrap();
        assert!(options.wants("sluice") && options.wants("borg") && !options.wants("casync"));
        assert!(Options::parse(&[]).unwrap().wants("casync"));
    }

    #[test]
    fn nonsense_is_refused() {
        for args in [&["--frobnicate"][..], &["--size"], &["--rounds", "0"], &["--data", "x"]] {
            assert!(Options::parse(args).is_err(), "{args:?}");
        }
    }
}
