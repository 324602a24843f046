//! From what was typed to images the engine can read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use sluice_block::BlockRead;
use sluice_connector_disk::Within;
use sluice_connector_nbd::{NbdSource, NbdUri};
use sluice_engine::{Change, Source, SourceImage};
use sluice_repository::check_name;

use super::changed;
use super::program::ProgramOutput;
use super::stdin::StandardInput;
use crate::args::{BackupArgs, SourceFormat};
use crate::error::{Advice, usage_error};

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Nbd(String),
    Stdin,
    /// What a program prints.
    Program(Vec<String>),
}

impl Place {
    /// Whether it is read once from its beginning to its end.
    fn is_stream(&self) -> bool {
        matches!(self, Self::Stdin | Self::Program(_))
    }
}

/// How the changes are found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum How {
    Regions,
    Rescan,
    List(PathBuf),
    Bitmap(String),
}

/// An image as it was asked for; nothing is opened yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    name: String,
    place: Place,
    how: How,
}

/// Makes sense of the arguments of `sluice backup`, so that mistakes show before anything runs.
pub(crate) fn plan(args: &BackupArgs) -> Result<Vec<Planned>> {
    let mut planned: Vec<Planned> = Vec::with_capacity(args.images.len());
    let places = args.images.iter().map(|text| (text, place(text)));
    for (text, found) in places.chain(args.output_of.iter().map(|text| (text, program(text)))) {
        let (name, place) = found?;
        check_name("image", &name)
            .map_err(|error| usage_error(format!("{error}; name it as NAME={text}")))?;
        if planned.iter().any(|other| other.name == name) {
            return Err(usage_error(format!("two images are named {name:?}; write NAME={text}")));
        }
        if place == Place::Stdin && planned.iter().any(|other| other.place == Place::Stdin) {
            return Err(usage_error("standard input can be one image only"));
        }
        let how = if args.rescan { How::Rescan } else { How::Regions };
        planned.push(Planned { name, place, how });
    }
    for (name, file) in by_image("--changed", &args.changed, &planned)? {
        set(&mut planned, "--changed", &name, How::List(file.into()))?;
    }
    for (name, bitmap) in by_image("--dirty-bitmap", &args.dirty_bitmap, &planned)? {
        set(&mut planned, "--dirty-bitmap", &name, How::Bitmap(bitmap))?;
    }
    Ok(planned)
}

/// Splits `NAME=REST` when what is before the sign can be a name.
fn named(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.split_once('=')?;
    (check_name("image", name).is_ok() && !rest.is_empty()).then_some((name, rest))
}

fn place(text: &str) -> Result<(String, Place)> {
    let (name, rest) = named(text).map_or((None, text), |(name, rest)| (Some(name), rest));
    let (default, place) = if rest == "-" {
        ("stdin".to_owned(), Place::Stdin)
    } else if ["nbd://", "nbd+unix://"].iter().any(|scheme| rest.starts_with(scheme)) {
        let uri: NbdUri = rest.parse().map_err(|error| usage_error(format!("{error}")))?;
        let export = uri.export.rsplit('/').next().unwrap_or_default().to_owned();
        (if export.is_empty() { "disk".into() } else { export }, Place::Nbd(rest.to_owned()))
    } else {
        let path = Path::new(rest);
        let stem = path.file_stem().unwrap_or(path.as_os_str());
        (stem.to_string_lossy().into_owned(), Place::File(path.to_owned()))
    };
    Ok((name.map_or(default, str::to_owned), place))
}

/// An image file, as `[NAME=]PATH`.
pub(crate) fn file(text: &str) -> Result<(String, PathBuf)> {
    match place(text)? {
        (name, Place::File(path)) => Ok((name, path)),
        _ => Err(usage_error(format!("{text} is no file"))),
    }
}

/// A program, as `[NAME=]COMMAND`: its name, if one is given, and its words, as a shell would split
/// them or as an array of JSON.
pub(crate) fn words_of(text: &str) -> Result<(Option<&str>, Vec<String>)> {
    // What looks like a name with blanks is a program with an option that has a value.
    let named = named(text).filter(|(name, _)| !name.contains(char::is_whitespace));
    let (name, rest) = named.map_or((None, text), |(name, rest)| (Some(name), rest));
    let words: Option<Vec<String>> = match rest.trim_start().starts_with('[') {
        true => serde_json::from_str(rest).ok(),
        false => shlex::split(rest),
    };
    let words = words.filter(|words| !words.is_empty()).ok_or_else(|| {
        let text = format!("--output-of {text:?}: a quote is not closed, or nothing is named");
        usage_error(text)
    })?;
    Ok((name, words))
}

fn program(text: &str) -> Result<(String, Place)> {
    let (name, words) = words_of(text)?;
    let stem = || Path::new(&words[0]).file_name().unwrap_or_default().to_string_lossy();
    Ok((name.map_or_else(|| stem().into_owned(), str::to_owned), Place::Program(words)))
}

/// Values of an option that belong to images: `VALUE` for the only image, or `NAME=VALUE`.
fn by_image(
    option: &str,
    values: &[String],
    planned: &[Planned],
) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for text in values {
        let of_image = named(text).filter(|(name, _)| planned.iter().any(|one| one.name == *name));
        let (name, value) = match (of_image, planned) {
            (Some((name, value)), _) => (name.to_owned(), value),
            (None, [only]) => (only.name.clone(), text.as_str()),
            (None, _) => {
                return Err(usage_error(format!(
                    "there are several images; write {option} NAME={text}"
                )));
            }
        };
        if found.insert(name.clone(), value.to_owned()).is_some() {
            return Err(usage_error(format!("{option} is given twice for image {name:?}")));
        }
    }
    Ok(found)
}

fn set(planned: &mut [Planned], option: &str, name: &str, how: How) -> Result<()> {
    let image = planned.iter_mut().find(|one| one.name == name);
    let image =
        image.ok_or_else(|| usage_error(format!("{option}: no image is named {name:?}")))?;
    if image.how != How::Regions {
        return Err(usage_error(format!(
            "image {name:?}: --changed and --dirty-bitmap exclude each other"
        )));
    }
    match (&image.place, &how) {
        (place, _) if place.is_stream() => {
            return Err(usage_error(format!("{option}: {name:?} is always read to its end")));
        }
        (Place::File(_), How::Bitmap(_)) => {
            return Err(usage_error(format!(
                "--dirty-bitmap: {name:?} is a file; serve it with qemu-nbd --bitmap and name \
                 its URI"
            )));
        }
        _ => image.how = how,
    }
    Ok(())
}

/// Opens the planned images.
///
/// `of_task` says that a server asked for it, which has set this process's variables. All files of
/// the images must lie where `within` says.
pub(crate) async fn open(
    planned: Vec<Planned>,
    (format, within): (SourceFormat, &Within),
    of_task: bool,
) -> Result<Vec<SourceImage>> {
    let mut images = Vec::with_capacity(planned.len());
    for one in planned {
        let context = Advice::new(
            "source",
            format!("cannot open image {:?}", one.name),
            "check that the image is there, may be read, and is of the --format that is named",
        );
        images.push(open_one(one, (format, within), of_task).await.context(context)?);
    }
    Ok(images)
}

async fn open_one(
    planned: Planned,
    (format, within): (SourceFormat, &Within),
    of_task: bool,
) -> Result<SourceImage> {
    let Planned { name, place, how } = planned;
    if matches!(place, Place::Stdin | Place::Nbd(_)) && !within.is_anywhere() {
        return Err(usage_error("--within: only files lie in folders"));
    }
    let (device, description, bitmap): (Arc<dyn BlockRead>, String, _) = match place {
        Place::Stdin => {
            let source = Source::Stream(Box::new(StandardInput::new()));
            return Ok(SourceImage { name, description: "stdin".into(), source });
        }
        Place::Program(words) => {
            // Its arguments may hold what is not for everybody who reads the restore point.
            let description = format!("output of {}", words[0]);
            let source = Source::Stream(Box::new(ProgramOutput::start(&words, of_task)?));
            return Ok(SourceImage { name, description, source });
        }
        Place::Nbd(uri) => {
            let source = Arc::new(NbdSource::connect(&uri).await?);
            let bitmap = match &how {
                How::Bitmap(bitmap) => Some(source.dirty_bitmap(bitmap).await?),
                _ => None,
            };
            (source, uri, bitmap)
        }
        Place::File(path) => {
            let disk = super::disk::open(&path, format, within).await?;
            (disk.device, format!("{} ({})", path.display(), disk.format), None)
        }
    };
    let size = device.size();
    let change = match (how, bitmap) {
        (_, Some(ranges)) => Change::Changed(ranges),
        (How::List(path), None) => Change::Changed(clamp(changed::read(&path)?, size)),
        (How::Rescan, None) => Change::Rescan,
        (How::Regions | How::Bitmap(_), None) => Change::Regions,
    };
    Ok(SourceImage { name, description, source: Source::Device(device, change) })
}

/// A list may speak of a disk that was larger; what is beyond the end is gone anyway.
fn clamp(ranges: Vec<std::ops::Range<u64>>, size: u64) -> Vec<std::ops::Range<u64>> {
    let clamped = ranges.into_iter().map(|range| range.start.min(size)..range.end.min(size));
    clamped.filter(|range| !range.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn planned(line: &str) -> Result<Vec<Planned>> {
        let line = format!("sluice backup web {line}");
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Backup(args) => plan(&args),
            _ => unreachable!("the line is a backup"),
        }
    }

    fn one(name: &str, place: Place, how: How) -> Planned {
        Planned { name: name.into(), place, how }
    }

    #[test]
    fn names_come_from_files_exports_or_the_caller() {
        let file = |path: &str| Place::File(path.into());
        let uri = "nbd+unix:///vm/vdb?socket=/run/x=y.sock";
        let images = planned(&format!("/a/disk.qcow2 vda=/dev/sda {uri} - ./b=c.raw")).unwrap();
        assert_eq!(
            images,
            [
                one("disk", file("/a/disk.qcow2"), How::Regions),
                one("vda", file("/dev/sda"), How::Regions),
                one("vdb", Place::Nbd(uri.into()), How::Regions),
                one("stdin", Place::Stdin, How::Regions),
                one("b=c", file("./b=c.raw"), How::Regions),
            ]
        );
    }

    #[test]
    fn programs_are_words_without_a_shell() {
        let program = |text: &str| program(text).unwrap();
        let of = |words: &[&str]| Place::Program(words.iter().map(|&word| word.into()).collect());
        let dump = of(&["/usr/bin/pg_dump", "--format=custom", "an app"]);
        assert_eq!(
            program("app=/usr/bin/pg_dump --format=custom 'an app'"),
            ("app".into(), dump.clone())
        );
        let array = r#"app=["/usr/bin/pg_dump", "--format=custom", "an app"]"#;
        assert_eq!(program(array), ("app".into(), dump));
        let unnamed = program("/usr/bin/pg_dump --format=custom");
        assert_eq!(unnamed, ("pg_dump".into(), of(&["/usr/bin/pg_dump", "--format=custom"])));
    }

    #[test]
    fn lists_and_bitmaps_go_to_their_image() {
        let images = planned("a.raw b=nbd://h/x --changed a=l.json --dirty-bitmap b=m").unwrap();
        assert_eq!(images[0].how, How::List("l.json".into()));
        assert_eq!(images[1].how, How::Bitmap("m".into()));
        let images = planned("a.raw --changed l.json").unwrap();
        assert_eq!(images[0].how, How::List("l.json".into()));
        assert_eq!(planned("a.raw --rescan").unwrap()[0].how, How::Rescan);
    }

    #[test]
    fn mistakes_are_told_before_anything_is_opened() {
        for (line, part) in [
            ("a.raw x/a.qcow2", "NAME=x/a.qcow2"),
            ("- d=-", "one image only"),
            ("a.raw b.raw --changed l.json", "NAME=l.json"),
            ("a.raw --changed l.json --changed m.json", "twice"),
            ("a.raw --dirty-bitmap m", "qemu-nbd"),
            ("a=nbd://h/x --changed l --dirty-bitmap m", "exclude"),
            ("- --changed l.json", "read to its end"),
            ("--output-of d=pg_dump --changed l.json", "read to its end"),
            ("--output-of 'x", "a quote is not closed"),
            ("--output-of []", "nothing is named"),
            ("d=a.raw --output-of d=b", "two images"),
            (".hidden", "name it as NAME=.hidden"),
            ("nbd://h:port/x", "not an NBD address"),
        ] {
            let error = planned(line).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn extents_beyond_the_end_are_cut() {
        assert_eq!(clamp(vec![0..10, 90..u64::MAX, 200..300], 100), [0..10, 90..100]);
    }
}
