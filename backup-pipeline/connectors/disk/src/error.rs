use std::io;
use std::path::PathBuf;

use sluice_connector_nbd::NbdError;

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The file cannot be opened or read.
    #[error("cannot read {0}")]
    Io(PathBuf, #[source] io::Error),
    /// The file is not what its format says.
    #[error("{0} is not a {1} image this program can read: {2}")]
    Invalid(PathBuf, super::Format, &'static str),
    /// The file begins as a format that is not read.
    #[error(
        "{0} is of a format this program does not read; convert it with qemu-img convert, or \
             say --format raw to back up its bytes as they are"
    )]
    Unknown(PathBuf),
    /// The image names another file in a way that is not followed.
    #[error("{0} names another file that is not followed: {1}")]
    Unsafe(PathBuf, String),
    /// The image has a format whose header names files, and nobody has said so.
    #[error(
        "{0} begins as a {1} image, which may name other files, and its format was only guessed; \
         say --format {1} if the image can be trusted, or --format raw to back up its bytes as \
         they are"
    )]
    Guessed(PathBuf, super::Format),
    /// Another file has its name by now.
    #[error("{0} was replaced by another file after it was looked at; try again")]
    Changed(PathBuf),
    /// QEMU follows the image to what it did not name before.
    #[error("reading {0}, qemu-nbd has opened {1}, which is none of its files: nothing was read")]
    Strange(PathBuf, String),
    /// A file of the image, which is the second one, lies where nothing may be read.
    #[error("{0} needs {1}, which lies in no folder from which sources may be read here")]
    Outside(PathBuf, PathBuf),
    /// QEMU's tools are missing.
    #[error("reading this format needs qemu-nbd; install the package qemu-utils")]
    NoQemu(#[source] io::Error),
    /// QEMU could not open the image.
    #[error("qemu-nbd cannot open {0}: {1}")]
    Qemu(PathBuf, String),
    /// QEMU does not answer.
    #[error("qemu-nbd does not serve {0}")]
    Nbd(PathBuf, #[source] NbdError),
    /// A part of this program was stopped.
    #[error("opening the image was interrupted: {0}")]
    Task(String),
}
