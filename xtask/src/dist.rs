//! `cargo xtask dist`: what is given to others: a Debian package, an archive, a list of what is in
//! them, and checksums.

mod check;
mod deb;
mod sbom;
mod tree;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::host;

const USAGE: &str = "\
usage: cargo xtask dist [OPTION...]

Writes into target/dist: sluice_VERSION_ARCH.deb, sluice-VERSION-linux-ARCH.tar.gz,
sluice-VERSION.cdx.json (CycloneDX) and SHA256SUMS. Builds a release first.

  --debug          of the debug build: quick, and for tests only
  --binary PATH    of an executable that is built already
  --check          install the package below a folder, remove and purge it, look at its units
  --out DIR        write there
";

/// What the package is called.
const NAME: &str = "sluice";

/// Who is asked about it, as Debian writes it.
const MAINTAINER: &str = "The Sluice developers <sluice@sluice.invalid>";

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
struct Options {
    debug: bool,
    check: bool,
    binary: Option<PathBuf>,
    out: Option<PathBuf>,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut path = || {
                let path = words.next().with_context(|| format!("{word} needs a path"))?;
                anyhow::Ok(Some(PathBuf::from(*path)))
            };
            match *word {
                "--debug" => options.debug = true,
                "--check" => options.check = true,
                "--binary" => options.binary = path()?,
                "--out" => options.out = path()?,
                _ => bail!("no option {word:?}\n\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

/// One thing that is given to others, as all parts of it are called.
struct Release {
    version: String,
    /// As Debian calls it.
    architecture: String,
    /// Seconds since 1970 that files are of: those of the last commit.
    time: u64,
    /// Whether it is for tests only, and is not worth long compression.
    quick: bool,
}

/// Does it.
pub fn command(words: &[&str]) -> Result<()> {
    if words.iter().any(|word| ["-h", "--help"].contains(word)) {
        println!("{USAGE}");
        return Ok(());
    }
    let options = Options::parse(words)?;
    let out = options.out.clone().unwrap_or_else(|| host::root().join("target/dist"));
    let binary = binary(&options)?;
    let release = Release {
        version: version()?,
        architecture: host::output(host::command("dpkg").arg("--print-architecture"))?
            .trim()
            .to_owned(),
        time: host::output(host::command("git").args(["log", "-1", "--format=%ct"]))?
            .trim()
            .parse()?,
        quick: options.debug,
    };
    if out.exists() {
        std::fs::remove_dir_all(&out).with_context(|| format!("cannot empty {}", out.display()))?;
    }
    std::fs::create_dir_all(&out)?;
    let work = tempfile::tempdir()?;
    let tree = work.path().join("tree");
    tree::fill(&tree, &binary, &release)?;
    let archive = archive(work.path(), &tree, &out, &release)?;
    let package = deb::build(&tree, &out, &release)?;
    let sbom = out.join(format!("{NAME}-{}.cdx.json", release.version));
    std::fs::write(&sbom, sbom::document(&release)?)?;
    checksums(&out, &[&archive, &package, &sbom])?;
    if options.check {
        check::all(&package, &tree)?;
    }
    println!("{} is ready", out.display());
    Ok(())
}

/// The executable: the one that was named, or one that is built now.
fn binary(options: &Options) -> Result<PathBuf> {
    if let Some(path) = &options.binary {
        return std::path::absolute(path).context("this is no path");
    }
    let mut build = host::cargo();
    build.args(["build", "--locked", "--package", NAME]);
    let profile = if options.debug {
        "debug"
    } else {
        build.arg("--release");
        "release"
    };
    host::run(&mut build)?;
    Ok(host::root().join("target").join(profile).join(NAME))
}

fn version() -> Result<String> {
    let text = std::fs::read_to_string(host::root().join("Cargo.toml"))?;
    let (_, rest) = text.split_once("[workspace.package]").context("no [workspace.package]")?;
    let line = rest.lines().find(|line| line.starts_with("version")).context("no version")?;
    Ok(line.split('"').nth(1).context("no version")?.to_owned())
}

/// The same files without a package manager; unpacked at `/`, or used from where they are.
fn archive(work: &Path, tree: &Path, out: &Path, release: &Release) -> Result<PathBuf> {
    let name = format!("{NAME}-{}-linux-{}", release.version, release.architecture);
    let file = out.join(format!("{name}.tar.gz"));
    let mut tar = host::command("tar");
    tar.current_dir(work).env("GZIP", if release.quick { "-1n" } else { "-9n" });
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    tar.arg(format!("--mtime=@{}", release.time));
    tar.arg(format!("--transform=s,^\\.,{name},"));
    tar.arg("--gzip").arg("-cf").arg(&file).arg("-C").arg(tree).arg(".");
    host::output(&mut tar)?;
    Ok(file)
}

fn checksums(out: &Path, files: &[&Path]) -> Result<()> {
    let mut sum = host::command("sha256sum");
    sum.current_dir(out);
    sum.args(files.iter().filter_map(|file| file.file_name()));
    std::fs::write(out.join("SHA256SUMS"), host::output(&mut sum)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let options = Options::parse(&["--debug", "--binary", "/b", "--check"]).unwrap();
        let wanted =
            Options { debug: true, check: true, binary: Some("/b".into()), ..Options::default() };
        assert_eq!(options, wanted);
        assert!(Options::parse(&["--binary"]).is_err() && Options::parse(&["--x"]).is_err());
    }

    #[test]
    fn the_version_is_the_workspace_s() {
        assert_eq!(version().unwrap(), env!("CARGO_PKG_VERSION"));
    }
}
