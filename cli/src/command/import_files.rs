//! Image files of a restore point for a new instance, on a node.
//!
//! ```text
//!   FOLDER/.NAME.ID/IMAGE.raw.part ─► IMAGE.raw, for each ─► FOLDER/NAME
//!        │ killed anywhere: the next attempt goes on there
//! ```
//!
//! The folder gets its name when all of it is there, and never in place of something else.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};

use super::restore::{Job, one};
use crate::args::{ImportFilesCommand, ImportPlaceArgs, RestoreArgs, TargetFormat};
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};
use crate::interrupt;
use crate::output::{self, note};

/// The file that tells whose a folder is.
const MARK: &str = ".sluice-import";

/// Where an import lies before and after it is whole.
struct Place {
    begun: PathBuf,
    whole: PathBuf,
    id: String,
}

impl Place {
    fn of(args: &ImportPlaceArgs) -> Result<Self> {
        for word in [&args.name, &args.id] {
            if word.is_empty() || word.contains(['/', '\0']) || word.starts_with('.') {
                return Err(usage_error(format!("{word:?} is no name of a folder")));
            }
        }
        let begun = args.folder.join(format!(".{}.{}", args.name, args.id));
        Ok(Self { begun, whole: args.folder.join(&args.name), id: args.id.clone() })
    }

    /// Whether a folder is this import's.
    fn is_own(&self, folder: &Path) -> bool {
        std::fs::read_to_string(folder.join(MARK)).is_ok_and(|text| text == self.id)
    }

    /// Whether it is whole already.
    fn is_done(&self) -> Result<bool> {
        if self.whole.symlink_metadata().is_err() {
            return Ok(false);
        }
        match self.is_own(&self.whole) {
            true => Ok(true),
            false => Err(taken(&self.whole)),
        }
    }

    /// Makes the folder in which it is made.
    fn begin(&self) -> Result<()> {
        let context = || format!("cannot make the folder {}", self.begun.display());
        std::fs::create_dir_all(&self.begun).with_context(context)?;
        std::fs::write(self.begun.join(MARK), &self.id).with_context(context)
    }

    /// Gives it its name.
    fn end(&self) -> Result<()> {
        let context = || format!("cannot make the folder {}", self.whole.display());
        sync(&self.begun).with_context(context)?;
        match renameat_with(CWD, &self.begun, CWD, &self.whole, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::EXIST) => return Err(taken(&self.whole)),
            done => done.map_err(io::Error::from).with_context(context)?,
        }
        sync(self.whole.parent().unwrap_or(&self.whole)).with_context(context)
    }

    /// Makes the folder in which all imports lie: from then on, that it is not there says that its
    /// disk is not.
    fn prepare(&self) -> Result<()> {
        let folder = self.whole.parent().unwrap_or(&self.whole);
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))
    }

    /// Removes all of it; whether there was anything.
    fn remove(&self) -> Result<bool> {
        let folder = self.whole.parent().unwrap_or(&self.whole);
        if !folder.is_dir() {
            let text = format!("{} is not there, and imports lie in it", folder.display());
            return Err(advise("target", text, "see that its disk is mounted"));
        }
        let mut found = false;
        for folder in [&self.begun, &self.whole] {
            if self.is_own(folder) || *folder == self.begun && folder.is_dir() {
                let context = || format!("cannot remove {}", folder.display());
                std::fs::remove_dir_all(folder).with_context(context)?;
                found = true;
            }
        }
        Ok(found)
    }
}

fn taken(folder: &Path) -> anyhow::Error {
    let text = format!("{} exists already", folder.display());
    advise("usage", text, "nothing is written over: name another instance")
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Does it.
pub(crate) async fn run(context: &Context, command: ImportFilesCommand) -> Result<Exit> {
    let (document, text) = match command {
        ImportFilesCommand::Make { place, format, point } => {
            make(context, &Place::of(&place)?, format, &point).await?
        }
        ImportFilesCommand::Remove { place } => {
            let found = Place::of(&place)?.remove()?;
            (
                json!({"removed": found}),
                if found { "removed" } else { "it was gone already" }.to_owned(),
            )
        }
    };
    if context.global.json {
        output::json_line(&document)?;
    } else if !context.global.quiet {
        note(text);
    }
    Ok(Exit::Done)
}

async fn make(
    context: &Context,
    place: &Place,
    format: TargetFormat,
    point: &str,
) -> Result<(Value, String)> {
    let told = |images: Vec<Value>| {
        let text = format!("in {}", place.whole.display());
        (json!({"folder": place.whole, "images": images}), text)
    };
    if place.is_done()? {
        return Ok(told(Vec::new()));
    }
    place.prepare()?;
    let repository = context.open().await?;
    let (point, image) = context.point(&repository, point).await?;
    let names = Context::image_names(&point, image.as_deref())?;
    place.begin()?;
    let cancel = interrupt::watch("stopping (again to stop at once)")?;
    let pin = repository.pin(&point, "import").await?;
    let ending = match format {
        TargetFormat::Raw => "raw",
        TargetFormat::Qcow2 => "qcow2",
    };
    let mut images = Vec::new();
    let mut result = Ok(());
    for name in names {
        let path = place.begun.join(format!("{name}.{ending}"));
        if path.exists() {
            continue;
        }
        let part = begun(&path, format);
        let args = RestoreArgs {
            point: point.to_string(),
            target: Some(part.clone()),
            to: None,
            format: Some(format),
            overwrite: false,
            resume: false,
        };
        let job = Job { image: name, path: part.clone() };
        let done = Box::pin(one(context, &args, &repository, &point, &job, &cancel)).await;
        let done = done.and_then(|document| {
            std::fs::rename(&part, &path)?;
            Ok(document)
        });
        match done {
            Ok(document) => images.push(document),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    pin.release().await;
    result?;
    place.end()?;
    Ok(told(images))
}

/// The file in which an image is made. What an interrupted attempt left there stays if it can be
/// gone on with.
fn begun(path: &Path, format: TargetFormat) -> PathBuf {
    let beside = |ending: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(ending);
        path.with_file_name(name)
    };
    let part = beside(".part");
    let goes_on = format == TargetFormat::Raw && beside(".part.sluice-restore").exists();
    if !goes_on {
        let _ = std::fs::remove_file(&part);
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(folder: &Path, id: &str) -> Place {
        let (name, id) = ("web".to_owned(), id.to_owned());
        Place::of(&ImportPlaceArgs { folder: folder.to_owned(), name, id }).unwrap()
    }

    #[test]
    fn a_folder_of_somebody_else_is_neither_written_nor_removed() {
        let base = tempfile::tempdir().unwrap();
        let own = place(base.path(), "one");
        own.begin().unwrap();
        assert!(!own.is_done().unwrap());
        std::fs::create_dir(&own.whole).unwrap();
        std::fs::write(own.whole.join("disk.raw"), "precious").unwrap();
        assert!(own.is_done().is_err() && own.end().is_err());
        assert!(own.remove().unwrap() && own.whole.join("disk.raw").exists());
        assert!(!own.begun.exists() && !own.remove().unwrap());
    }

    #[test]
    fn what_is_whole_is_told_again_and_removed_by_whoever_made_it() {
        let base = tempfile::tempdir().unwrap();
        let (own, other) = (place(base.path(), "one"), place(base.path(), "two"));
        own.begin().unwrap();
        own.end().unwrap();
        assert!(own.is_done().unwrap() && other.is_done().is_err());
        assert!(!other.remove().unwrap() && own.remove().unwrap());
        assert!(!own.whole.exists());
    }

    #[test]
    fn nothing_is_gone_whose_disk_is_not_there() {
        let base = tempfile::tempdir().unwrap();
        let own = place(&base.path().join("imports"), "one");
        let error = own.remove().unwrap_err();
        assert!(!crate::error::is_usage_error(&error), "it is tried again");
        own.prepare().unwrap();
        assert!(!own.remove().unwrap());
    }

    #[test]
    fn an_attempt_goes_on_only_with_what_it_can_trust() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("vda.raw");
        let part = base.path().join("vda.raw.part");
        std::fs::write(&part, "x").unwrap();
        assert_eq!(begun(&path, TargetFormat::Raw), part);
        assert!(!part.exists(), "nothing tells how far it is");
        for (format, stays) in [(TargetFormat::Raw, true), (TargetFormat::Qcow2, false)] {
            std::fs::write(&part, "x").unwrap();
            std::fs::write(base.path().join("vda.raw.part.sluice-restore"), "y").unwrap();
            begun(&path, format);
            assert_eq!(part.exists(), stays);
        }
    }
}
