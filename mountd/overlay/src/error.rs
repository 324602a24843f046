use std::io;
use std::path::{Path, PathBuf};

use sluice_block::{BlockError, ErrorKind};

use crate::log::LogError;

/// A result of something done to an overlay.
pub type Result<T, E = OverlayError> = std::result::Result<T, E>;

/// Why an overlay cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OverlayError {
    /// There is none in the folder.
    #[error("there is no overlay in {0}")]
    NotFound(PathBuf),
    /// There is one already, or something else.
    #[error("{0} is not empty, and holds no overlay")]
    NotEmpty(PathBuf),
    /// Another process uses it.
    #[error("the overlay in {0} is in use by another process")]
    InUse(PathBuf),
    /// It lies over something else than what was named.
    #[error("the overlay in {path} lies over {found}, not over {wanted}")]
    OtherBase {
        /// The overlay's folder.
        path: PathBuf,
        /// What it lies over.
        found: String,
        /// What it was to lie over.
        wanted: String,
    },
    /// A later version wrote it.
    #[error("the overlay in {path} has version {version}, which a later release reads")]
    Version {
        /// The overlay's folder.
        path: PathBuf,
        /// The version it says.
        version: u32,
    },
    /// Its description makes no sense.
    #[error("{path} does not describe an overlay: {reason}")]
    Description {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A log is damaged.
    #[error("{path} is damaged")]
    Damaged {
        /// The log.
        path: PathBuf,
        /// How.
        #[source]
        source: LogError,
    },
    /// It is frozen already.
    #[error("the overlay is being committed already")]
    Frozen,
    /// What was to lie under it was made from another base than the one it lies over.
    #[error(
        "the overlay in {path} lies over {found} by now, and what was made builds on {built_on}"
    )]
    BuiltOnOther {
        /// The overlay's folder.
        path: PathBuf,
        /// What it lies over.
        found: String,
        /// What the new base was made from.
        built_on: String,
    },
    /// There is no room for another freeze.
    #[error("too many commits of the overlay have failed; end the export and begin it again")]
    TooManyLayers,
    /// Its disks are files or devices of this machine by now, and no longer lie over anything.
    #[error("the overlay's disks are files by now, beginning with {}", first(.0))]
    Local(Vec<PathBuf>),
    /// The copy goes somewhere else already.
    #[error("the copy of what lies below goes to {} already", first(.0))]
    CopiedElsewhere(Vec<PathBuf>),
    /// Where the copy was to go is something.
    #[error("{0} is not empty")]
    TargetNotEmpty(PathBuf),
    /// What was written cannot be made durable.
    #[error("what was written to the overlay cannot be made durable")]
    Failed(#[source] BlockError),
    /// The system reported an error.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn first(paths: &[PathBuf]) -> std::path::Display<'_> {
    paths.first().map_or(Path::new("the overlay's folder"), PathBuf::as_path).display()
}

pub(crate) fn io_error(what: &'static str, path: &Path, source: io::Error) -> OverlayError {
    OverlayError::Io { what, path: path.to_owned(), source }
}

impl From<OverlayError> for BlockError {
    fn from(error: OverlayError) -> Self {
        let text = error.to_string();
        match error {
            OverlayError::Io { source, .. } => Self::io(text, source),
            other => Self::caused(ErrorKind::Io, text, other),
        }
    }
}
