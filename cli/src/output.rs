//! What people and programs are shown.

mod document;
mod number;
pub(crate) mod progress;
mod protection;
mod table;
mod time;

use std::fmt;
use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;

use crate::cost;

pub(crate) use document::{PointDocument, points};
pub(crate) use number::{bytes, count, ratio, seconds, span};
pub(crate) use protection::{ProtectionDocument, kept};
pub(crate) use table::{fields, table};
pub(crate) use time::{folder_name, local, short_ids, undo_folder_name};

/// Writing to stdout failed.
#[derive(Debug)]
pub(crate) struct StdoutError(io::Error);

impl StdoutError {
    /// Whether the reader went away.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

impl fmt::Display for StdoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot write to standard output")
    }
}

impl std::error::Error for StdoutError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl From<io::Error> for StdoutError {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

/// Writes text to stdout. A reader that went away has seen enough: what the command is there for
/// is done to its end all the same, and the exit code tells what came of it.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(StdoutError) {
        Err(error) if !error.is_closed() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes bytes to stdout.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<()> {
    io::stdout().lock().write_all(bytes).map_err(StdoutError)?;
    Ok(())
}

/// A document with what the command has asked of its destinations so far.
#[derive(Serialize)]
struct Stamped<'d, T> {
    #[serde(flatten)]
    document: &'d T,
    #[serde(flatten)]
    stamp: cost::Stamp,
}

/// The document with `requests` and `costs`, when it is an object. Requests it tells itself stay.
fn stamped<T: Serialize>(document: &T) -> Result<Option<Stamped<'_, T>>> {
    let value = serde_json::to_value(document)?;
    let Some(object) = value.as_object() else { return Ok(None) };
    Ok(Some(Stamped { document, stamp: cost::stamp(!object.contains_key("requests")) }))
}

/// Writes a command's document to stdout, for people who read JSON as well.
pub(crate) fn json<T: Serialize>(document: &T) -> Result<()> {
    let text = match stamped(document)? {
        Some(stamped) => serde_json::to_string_pretty(&stamped)?,
        None => serde_json::to_string_pretty(document)?,
    };
    print(&(text + "\n"))
}

/// Writes a command's document to stdout as one line.
pub(crate) fn json_line<T: Serialize>(document: &T) -> Result<()> {
    match stamped(document)? {
        Some(stamped) => event(&stamped),
        None => event(document),
    }
}

/// Writes what happens on the way to a command's end to stdout as one line.
pub(crate) fn event<T: Serialize>(document: &T) -> Result<()> {
    print(&(serde_json::to_string(document)? + "\n"))
}

/// Says something on stderr; whether anybody reads it does not matter.
pub(crate) fn note(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Says a warning on stderr.
pub(crate) fn warn(text: impl fmt::Display) {
    note(format_args!("warning: {text}"));
}

/// Says that damage is recorded, and what the next backups will make of it.
pub(crate) fn tell_recorded(packs: usize) {
    let packs = count(packs as u64, "damaged pack");
    note(format_args!(
        "{packs} recorded: the next backups store again what their sources still have"
    ));
}
