//! What went wrong, as one line, a hint, and an exit code.

use std::fmt;
use std::io::{self, Write};

use sluice_block::{BlockError, ErrorKind as BlockKind};
use sluice_destination::{DestinationError, ErrorKind as DestinationKind};
use sluice_engine::{EngineError, ErrorKind as EngineKind};
use sluice_overlay::OverlayError;
use sluice_repository::{ErrorKind as RepositoryKind, RepositoryError};

use crate::output;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// Done, with warnings.
    Warnings = 3,
    /// Damaged data was found.
    Damaged = 4,
}

/// A mistake in what was typed, found after parsing.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// A mistake in what was typed, as an error of any command.
pub(crate) fn usage_error(text: impl Into<String>) -> anyhow::Error {
    UsageError(text.into()).into()
}

/// Whether the command was asked for what makes no sense, whatever is there.
pub(crate) fn is_usage_error(error: &anyhow::Error) -> bool {
    error.is::<UsageError>()
}

/// A failure of which the command itself knows what to do about it.
#[derive(Debug)]
pub(crate) struct Advice {
    kind: &'static str,
    message: String,
    help: String,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Advice {}

impl Advice {
    /// A context of `kind` with its own hint.
    pub(crate) fn new(
        kind: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { kind, message: message.into(), help: help.into() }
    }
}

/// An error of `kind` with its own hint.
pub(crate) fn advise(
    kind: &'static str,
    message: impl Into<String>,
    help: impl Into<String>,
) -> anyhow::Error {
    Advice::new(kind, message, help).into()
}

/// Ends the process the way clap asks for: help and version are not errors.
pub(crate) fn usage(error: &clap::Error) -> ! {
    // The arguments could not be parsed, so whether there is this one is looked up by hand.
    let json = std::env::args_os().skip(1).any(|word| word == "--json");
    let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
    if json && exit == Exit::Usage {
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        std::process::exit(report(&usage_error(message), true) as i32);
    }
    // A reader that went away wants no help either.
    let _ = error.print();
    std::process::exit(exit as i32)
}

/// An error taken apart for people and for machines.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    pub(crate) causes: Vec<String>,
    pub(crate) help: Option<String>,
    pub(crate) exit: Exit,
}

/// Tells an error; with `json` as a document on stdout, else as two lines on stderr.
pub(crate) fn report(error: &anyhow::Error, json: bool) -> Exit {
    if is_closed_pipe(error) {
        // Whoever read the output has seen enough.
        return Exit::Done;
    }
    let report = Report::of(error);
    let document = serde_json::json!({ "error": {
        "kind": report.kind,
        "message": report.message,
        "causes": report.causes,
        "help": report.help,
    }});
    // Where no document can be written, stderr is the only way left to say why.
    if !json || output::json_line(&document).is_err() {
        let mut stderr = io::stderr().lock();
        let _ = writeln!(stderr, "error: {}", report.line());
        if let Some(help) = &report.help {
            let _ = writeln!(stderr, "help: {help}");
        }
    }
    report.exit
}

/// Whether stdout has lost its reader.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<output::StdoutError>().is_some_and(output::StdoutError::is_closed)
    })
}

impl Report {
    /// Takes an error apart.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let mut causes: Vec<String> = Vec::new();
        for cause in error.chain() {
            let text = cause.to_string();
            // Some libraries repeat their source's text in their own.
            if !causes.last().is_some_and(|last| last.contains(&text)) {
                causes.push(text);
            }
        }
        let message = if causes.is_empty() { "unknown".into() } else { causes.remove(0) };
        // Advice may be the cause or a context around it; the latter hides in the chain.
        let advice = error.downcast_ref::<Advice>();
        let kind = error.chain().filter_map(kind_of).last();
        let kind = kind.or_else(|| advice.map(|advice| advice.kind)).unwrap_or("failed");
        let help = advice.map(|advice| advice.help.clone());
        let help = help.or_else(|| help_for(kind).map(str::to_owned));
        let exit = match kind {
            "usage" => Exit::Usage,
            "damaged" | "overlay-damaged" => Exit::Damaged,
            _ => Exit::Failed,
        };
        Self { kind, message, causes, help, exit }
    }

    /// The message with its causes, on one line.
    pub(crate) fn line(&self) -> String {
        let mut line = self.message.clone();
        for cause in &self.causes {
            line.push_str(": ");
            line.push_str(cause);
        }
        line.replace('\n', " ")
    }
}

/// The kind of one error of a chain; the deepest that says something decides.
fn kind_of(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if error.is::<UsageError>() {
        return Some("usage");
    }
    if let Some(advice) = error.downcast_ref::<Advice>() {
        return Some(advice.kind);
    }
    if let Some(error) = error.downcast_ref::<EngineError>() {
        return engine_kind(error.kind());
    }
    if let Some(error) = error.downcast_ref::<RepositoryError>() {
        return repository_kind(error.kind());
    }
    if let Some(error) = error.downcast_ref::<DestinationError>() {
        return destination_kind(error.kind());
    }
    if let Some(error) = error.downcast_ref::<BlockError>() {
        return match error.kind() {
            BlockKind::NoSpace => Some("no-space"),
            BlockKind::ReadOnly => Some("read-only"),
            BlockKind::Unavailable => Some("unreachable"),
            BlockKind::Damaged => Some("damaged"),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<OverlayError>() {
        return Some(match error {
            OverlayError::NotFound(_) => "overlay-not-found",
            OverlayError::InUse(_) => "overlay-in-use",
            OverlayError::OtherBase { .. } => "overlay-base",
            OverlayError::Damaged { .. } | OverlayError::Description { .. } => "overlay-damaged",
            OverlayError::Frozen | OverlayError::BuiltOnOther { .. } => "conflict",
            OverlayError::Local(_) => "overlay-local",
            OverlayError::TargetNotEmpty(_) | OverlayError::CopiedElsewhere(_) => "conflict",
            _ => "overlay",
        });
    }
    let error = error.downcast_ref::<io::Error>()?;
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some("no-space"),
        io::ErrorKind::ReadOnlyFilesystem => Some("read-only"),
        io::ErrorKind::PermissionDenied => Some("access-denied"),
        _ => None,
    }
}

fn engine_kind(kind: EngineKind) -> Option<&'static str> {
    match kind {
        EngineKind::Repository(kind) => repository_kind(kind),
        EngineKind::Source => Some("source"),
        EngineKind::Target => Some("target"),
        EngineKind::Cancelled => Some("cancelled"),
        EngineKind::Invalid => Some("usage"),
        _ => None,
    }
}

fn repository_kind(kind: RepositoryKind) -> Option<&'static str> {
    Some(match kind {
        RepositoryKind::NotARepository => "not-a-repository",
        RepositoryKind::AlreadyARepository => "already-a-repository",
        RepositoryKind::NewerFormat => "newer-format",
        RepositoryKind::WrongKey => "wrong-key",
        RepositoryKind::Damaged => "damaged",
        RepositoryKind::NotFound => "not-found",
        RepositoryKind::Ambiguous => "ambiguous",
        RepositoryKind::Conflict => "conflict",
        RepositoryKind::Role => "role",
        RepositoryKind::Invalid => "invalid",
        RepositoryKind::Protected => "protected",
        RepositoryKind::Destination(kind) => return destination_kind(kind),
        RepositoryKind::Local => "local",
        RepositoryKind::Allowance => "quota",
        RepositoryKind::Cancelled => "cancelled",
        _ => return None,
    })
}

fn destination_kind(kind: DestinationKind) -> Option<&'static str> {
    Some(match kind {
        DestinationKind::InvalidConfig => "bad-destination",
        DestinationKind::AccessDenied => "access-denied",
        DestinationKind::ReadOnly => "read-only",
        DestinationKind::NoSpace => "no-space",
        DestinationKind::Unavailable => "unreachable",
        DestinationKind::Unfit => "unfit",
        DestinationKind::Unsupported => "unsupported",
        DestinationKind::NotFound => "missing-object",
        _ => return None,
    })
}

/// What to do about an error of this kind, unless its message says so already.
fn help_for(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "not-a-repository" => {
            "check --repo or SLUICE_REPO; `sluice init` creates a repository there"
        }
        "already-a-repository" => {
            "use it as it is (`sluice list`), or choose another place with --repo"
        }
        "newer-format" => "it was written by a newer sluice; use that version here",
        "wrong-key" => {
            "check SLUICE_PASSPHRASE_FILE (its first line) or SLUICE_PASSPHRASE, and that the \
             repository is the one you mean; --recovery-key-file opens it with the recovery key"
        }
        "damaged" => {
            "`sluice doctor --data` tells what is damaged, what that touches and what helps; other \
             restore points can be restored"
        }
        "not-found" => "`sluice list` shows what there is",
        "ambiguous" => "write more of the id; `sluice list --json` shows ids in full",
        "conflict" => "run the command again",
        "role" => {
            "`sluice replicate status` shows what a repository is; `sluice replicate promote` and \
             `demote` change it"
        }
        "protected" => {
            "`sluice show POINT` tells what keeps it; `sluice release` ends a hold, \
             `sluice retain --shorten` brings the end of a retention forward"
        }
        "bad-destination" => {
            "name a folder, s3://BUCKET/PREFIX?endpoint=URL&region=R, \
             swift://CONTAINER/PREFIX?auth=URL&region=R or sftp://USER@HOST:PORT/PATH; for a \
             new repository, `sluice init` creates the folder"
        }
        "access-denied" => "check the permissions, or the credentials of the destination",
        "read-only" => "the place cannot be written; reading commands work on it",
        "no-space" => "make room and run the command again; what was stored is kept and used",
        "quota" => {
            "raise the limit, or remove what is not needed; the next run goes on with what was \
             stored"
        }
        "unreachable" => "check the network and the server, then run the command again",
        "overlay-not-found" => "`sluice overlay list` shows those of this user",
        "overlay-in-use" => "end the export that uses it; `sluice overlay commit` works meanwhile",
        "overlay-base" => {
            "name the point that the overlay lies over (`sluice overlay show`), or another folder \
             with --overlay"
        }
        "overlay-damaged" => {
            "what was written is lost in part; restore the folder from a copy, or throw it away \
             with `sluice overlay discard`"
        }
        "unfit" => {
            "use a store with conditional writes, such as S3, or a folder; or add arbiter=URL with \
             one of those"
        }
        "missing-object" => "`sluice doctor` tells which restore points miss something",
        "source" => {
            "earlier restore points are untouched; see to the source, then run the backup again"
        }
        "target" => "the target is incomplete; see to it, then run the restore again",
        "usage" => "`sluice help` shows the commands, `sluice help COMMAND` examples",
        "cancelled" => "the same command goes on with what was done",
        "failed" | "local" => "the same command with -v tells more",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_cause_decides_the_kind_and_the_hint() {
        let inner = DestinationError::new(DestinationKind::NoSpace, "writing d/00/x failed");
        let error = EngineError::from(RepositoryError::from(inner));
        let report = Report::of(&anyhow::Error::from(error).context("backing up web-1"));
        assert_eq!(report.kind, "no-space");
        assert_eq!(report.exit, Exit::Failed);
        assert!(report.help.unwrap().contains("room"));
        assert_eq!(report.message, "backing up web-1");
        assert_eq!(report.causes.last().unwrap(), "writing d/00/x failed");
    }

    #[test]
    fn damage_has_an_exit_code_of_its_own_wherever_it_was_met() {
        let damage = || RepositoryError::damaged("m/00/y", "it is missing");
        let block = BlockError::from(damage());
        let engine = EngineError::from(damage());
        for error in [damage().into(), block.into(), engine.into()] {
            let error: anyhow::Error = error;
            let report = Report::of(&error);
            assert_eq!((report.kind, report.exit), ("damaged", Exit::Damaged), "{error:?}");
            assert!(report.line().contains("m/00/y"));
        }
    }

    #[test]
    fn usage_errors_exit_with_two() {
        let report = Report::of(&usage_error("two images are named a"));
        assert_eq!((report.kind, report.exit), ("usage", Exit::Usage));
    }

    #[test]
    fn a_repeated_cause_is_told_once_and_the_line_is_one_line() {
        let error = anyhow::Error::from(io::Error::other("no\nroute")).context("no\nroute at all");
        assert_eq!(Report::of(&error).line(), "no route at all");
    }

    #[test]
    fn advice_goes_before_the_usual_hint() {
        let error = Err::<(), _>(advise("wrong-key", "no passphrase", "set it"));
        let report = Report::of(&error.context("opening").unwrap_err());
        assert_eq!((report.kind, report.help.as_deref()), ("wrong-key", Some("set it")));
        let missing = io::Error::from(io::ErrorKind::NotFound);
        let error = anyhow::Error::from(missing).context(Advice::new("source", "no a", "find it"));
        let report = Report::of(&error.context("around"));
        assert_eq!((report.kind, report.help.as_deref()), ("source", Some("find it")));
    }
}
