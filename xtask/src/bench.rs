//! Benchmarks: Sluice and other tools side by side, in one run on one machine.
//!
//! A figure alone says little: machines differ, and so do their days. So every tool does the same
//! things with the same images in the same run, one after the other in each round, with the
//! images in the page cache and the repositories on one file system; what counts are the ratios.
//! A restore must give the image back bit by bit, or the run fails.
//!
//! The floor is what the processor alone would take for the unavoidable work (see
//! `gateway/repository/examples/floor.rs`); Sluice is measured against it in the same run.
//! `docs/benchmarks.md` explains the tables to readers.

mod catalog;
mod data;
mod exports;
mod extras;
mod floor;
mod machine;
mod measure;
mod options;
mod peers;
mod report;
mod sluice;
mod tool;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::host;
use data::DataSet;
use extras::Extras;
use floor::Floor;
use machine::Machine;
use measure::measure;
use options::Options;
use report::{Report, SetResult, ToolResult};
use sluice::Sluice;
use tool::{Place, Step, Tool};

/// Where `--write` puts the tables, between these lines.
const DOCUMENT: &str = "docs/benchmarks.md";
const BEGIN: &str = "<!-- results: written by cargo xtask bench --write -->";
const END: &str = "<!-- results: end -->";

/// Programs and the Debian packages they come in.
const PROGRAMS: &[(&str, &str)] = &[
    ("time", "time"),
    ("restic", "restic"),
    ("borg", "borgbackup"),
    ("casync", "casync"),
    ("zstd", "zstd"),
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("nbdcopy", "libnbd-bin"),
    ("mmdebstrap", "mmdebstrap"),
];

/// `cargo xtask bench`.
pub fn command(args: &[&str]) -> Result<()> {
    if args.iter().any(|arg| matches!(*arg, "help" | "-h" | "--help")) {
        println!("{}\n{}\n{}", options::USAGE, exports::USAGE, catalog::USAGE);
        return Ok(());
    }
    if let Some((&"catalog", rest)) = args.split_first() {
        return catalog::command(rest);
    }
    if let Some((&"exports", rest)) = args.split_first() {
        return exports(rest);
    }
    let options = Options::parse(args)?;
    install(PROGRAMS)?;
    let target = target_folder()?;
    let folder = options.dir.clone().unwrap_or_else(|| target.join("bench"));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {folder:?}"))?;
    let folder = folder.canonicalize()?;
    let (sluice, floor) = build(options.build, &target, &folder)?;
    let rustic = if options.rustic { Some(build_rustic(&target)?) } else { None };
    let mut bench = Bench {
        tools: tools(&options, &sluice, rustic),
        options,
        sluice,
        floor,
        folder,
        load: (f64::MAX, 0.0),
    };
    let report = bench.run(&format!("cargo xtask bench {}", args.join(" ")))?;
    let markdown = report.markdown();
    if bench.options.json {
        println!("{:#}", report.json());
    } else {
        println!("{markdown}");
    }
    if bench.options.write { write(&markdown, BEGIN, END) } else { Ok(()) }
}

/// `cargo xtask bench exports`.
fn exports(args: &[&str]) -> Result<()> {
    let options = exports::Options::parse(args)?;
    install(exports::PROGRAMS)?;
    let target = target_folder()?;
    let folder = target.join("bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {folder:?}"))?;
    let (sluice, _) = build(options.build, &target, &folder)?;
    let (markdown, document) = exports::run(&options, &sluice, &folder)?;
    if options.json {
        println!("{document:#}");
    } else {
        println!("{markdown}");
    }
    if options.write { write(&markdown, exports::BEGIN, exports::END) } else { Ok(()) }
}

fn tools(options: &Options, sluice: &Sluice, rustic: Option<PathBuf>) -> Vec<Box<dyn Tool>> {
    let mut tools: Vec<Box<dyn Tool>> = vec![Box::new(sluice.clone())];
    tools.extend(peers::all(rustic).into_iter().filter(|tool| options.wants(tool.name())));
    tools
}

/// Installs what is missing when it may, else says how to.
fn install(programs: &[(&str, &str)]) -> Result<()> {
    let missing = programs.iter().filter(|(program, _)| host::find_tool(program).is_none());
    let mut packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let line = format!("apt-get install --yes --no-install-recommends {}", packages.join(" "));
    if host::output(host::command("id").arg("-u"))?.trim() != "0" {
        bail!("the benchmarks need programs that are not installed: sudo {line}");
    }
    eprintln!("bench: {line}");
    let mut words = line.split(' ');
    let mut apt = host::command(words.next().unwrap_or_default());
    host::output(apt.args(words).env("DEBIAN_FRONTEND", "noninteractive"))
        .with_context(|| format!("cannot install what the benchmarks need: {line}"))?;
    Ok(())
}

fn target_folder() -> Result<PathBuf> {
    let metadata = crate::manifest::metadata()?;
    Ok(metadata["target_directory"].as_str().context("no target_directory in metadata")?.into())
}

/// Builds the program and the floor, and takes copies of them: a build that somebody starts in the
/// middle of a run must not change what is measured.
fn build(anew: bool, target: &Path, folder: &Path) -> Result<(Sluice, PathBuf)> {
    if anew {
        let release = ["build", "--quiet", "--release", "--locked", "--package"];
        host::output(host::cargo().args(release).arg("sluice"))?;
        let examples = ["sluice-repository", "--example", "floor", "--example", "opening"];
        host::output(host::cargo().args(release).args(examples))?;
    }
    let take = |from: &str, name: &str| -> Result<PathBuf> {
        let (from, to) = (target.join("release").join(from), folder.join(name));
        // Not over the old copy: it may be running.
        let part = folder.join(format!("{name}.part"));
        std::fs::copy(&from, &part).with_context(|| format!("cannot copy {}", from.display()))?;
        std::fs::rename(&part, &to).with_context(|| format!("cannot rename {}", part.display()))?;
        Ok(to)
    };
    let program = take("sluice", "sluice")?;
    let opening = take("examples/opening", "opening")?;
    Ok((Sluice { program, opening }, take("examples/floor", "floor")?))
}

/// Builds rustic from its crate, once.
fn build_rustic(target: &Path) -> Result<PathBuf> {
    let root = target.join("bench/tools");
    let program = root.join("bin/rustic");
    if !program.exists() {
        eprintln!("bench: building rustic");
        let mut cargo = host::cargo();
        cargo.args(["install", "rustic-rs", "--locked", "--root"]).arg(&root);
        host::output(cargo.arg("--target-dir").arg(root.join("build")))?;
    }
    Ok(program)
}

struct Bench {
    options: Options,
    tools: Vec<Box<dyn Tool>>,
    sluice: Sluice,
    floor: PathBuf,
    folder: PathBuf,
    load: (f64, f64),
}

impl Bench {
    fn run(&mut self, command: &str) -> Result<Report> {
        let mut sets = Vec::new();
        if self.options.generated {
            let data = data::generated(&self.folder, self.options.size)?;
            sets.push(self.set(data)?);
        }
        if self.options.real {
            let data = data::real(&self.folder)?;
            sets.push(self.set(data)?);
        }
        let machine = Machine::facts(&self.folder, &self.tools)?;
        let rounds = self.options.rounds;
        Ok(Report { machine, command: command.to_owned(), rounds, load: self.load, sets })
    }

    /// All rounds of all tools with one data set.
    fn set(&mut self, data: DataSet) -> Result<SetResult> {
        let mut floor = Floor::default();
        let mut extras = Extras::default();
        let mut results: Vec<ToolResult> = self
            .tools
            .iter()
            .map(|tool| ToolResult {
                name: tool.name().to_owned(),
                about: tool.about().to_owned(),
                ..ToolResult::default()
            })
            .collect();
        for round in 1..=self.options.rounds {
            let load = machine::load();
            self.load = (self.load.0.min(load), self.load.1.max(load));
            eprintln!("bench: {}, round {round}, load average {load:.1}", data.name);
            floor = floor.best(Floor::measure(
                &self.floor,
                &data.image,
                &self.folder.join("floor-scratch"),
            )?);
            for (tool, result) in self.tools.iter().zip(&mut results) {
                let place = Place::new(self.folder.join(format!("run-{}", tool.name())))?;
                let done = self.steps(tool.as_ref(), &place, &data, result);
                match done.with_context(|| format!("{} failed", tool.name())) {
                    Err(error) if tool.name() == self.sluice.name() => return Err(error),
                    // One peer less is better than no result.
                    Err(error) => eprintln!("bench: {error:#}"),
                    Ok(()) => {}
                }
                if tool.name() == self.sluice.name() && self.options.extras {
                    extras::run(&self.sluice, &place, &data, &mut extras)?;
                }
                place.remove()?;
            }
        }
        Ok(SetResult { data, floor, tools: results, extras })
    }

    /// The steps of one tool in one round.
    fn steps(
        &self,
        tool: &dyn Tool,
        place: &Place,
        data: &DataSet,
        result: &mut ToolResult,
    ) -> Result<()> {
        tool.prepare(place)?;
        // Nobody pays for the disk the images come from.
        [&data.image, &data.similar].into_iter().try_for_each(|image| data::read_all(image))?;
        for step in Step::ALL {
            let Some(run) = tool.step(step, place, data) else { continue };
            if matches!(step, Step::Restore | Step::Check) {
                data::read_all(&place.repository())?;
            }
            let sample = measure(&run, &place.log())?;
            let (wall, rss) = (sample.wall.as_secs_f64(), sample.rss_kib / 1024);
            eprintln!("bench:   {:<14} {:<17} {wall:8.2} s {rss:6} MiB", tool.name(), step.name());
            if !matches!(step, Step::Restore | Step::Check) {
                result.stored.insert(step, data::stored(&place.repository())?);
            }
            result.steps.entry(step).or_default().0.push(sample);
        }
        let restored = tool.restored(place, data);
        host::output(host::command("cmp").arg(&data.image).arg(&restored))
            .context("the restored image is not the one that was backed up")?;
        Ok(())
    }
}

/// Puts the tables into the document.
fn write(markdown: &str, begin: &str, end: &str) -> Result<()> {
    let path = host::root().join(DOCUMENT);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path:?}"))?;
    let text = replace(&text, markdown, begin, end);
    let text = text.with_context(|| format!("{DOCUMENT} has no {begin:?}"))?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {path:?}"))
}

/// `text` with something else between its marks.
fn replace(text: &str, markdown: &str, begin: &str, end: &str) -> Option<String> {
    let (before, rest) = text.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}\n\n{}\n\n{end}{after}", markdown.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::{BEGIN, END, replace};

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let text = format!("head\n{BEGIN}\nold\n{END}\ntail\n");
        let new = replace(&text, "new\n", BEGIN, END).unwrap();
        assert_eq!(new, format!("head\n{BEGIN}\n\nnew\n\n{END}\ntail\n"));
        assert_eq!(replace(&new, "new", BEGIN, END).unwrap(), new);
        assert_eq!(replace("no marks", "new", BEGIN, END), None);
    }
}
