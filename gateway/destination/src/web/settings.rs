//! Settings and secrets: from the URL, the environment or a file of credentials.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::url::{DestinationUrl, invalid};
use crate::{DestinationError, ErrorKind, Result};

/// Text that is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where settings are looked up: in a file, or else in the environment; the URL goes first.
pub(crate) struct Settings<'a> {
    pub(crate) url: &'a DestinationUrl,
    /// What the file says; the environment counts when there is none.
    file: Option<HashMap<String, String>>,
}

impl<'a> Settings<'a> {
    /// The settings a URL leads to.
    pub(crate) fn find(url: &'a DestinationUrl) -> Result<Self> {
        let Some(path) = url.parameter("credentials").map(PathBuf::from) else {
            return Ok(Self { url, file: None });
        };
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let context = format!("cannot read the credentials file {}", path.display());
            DestinationError::caused(ErrorKind::AccessDenied, context, error)
        })?;
        let file = Some(parse_file(&path, &text)?);
        Ok(Self { url, file })
    }

    /// A setting that is no secret: a parameter of the URL, else one of these names.
    #[cfg(any(feature = "azblob", feature = "swift"))]
    pub(crate) fn open(&self, parameter: &str, names: &[&str]) -> Option<String> {
        self.url.parameter(parameter).map(str::to_owned).or_else(|| self.named(names))
    }

    /// The first of these names that has a value.
    pub(crate) fn named(&self, names: &[&str]) -> Option<String> {
        let given = |name: &&str| match &self.file {
            Some(file) => file.get(*name).cloned(),
            None => self.url.variable(name),
        };
        names.iter().filter_map(given).find(|value| !value.is_empty())
    }

    /// A setting there must be.
    #[cfg(any(feature = "azblob", feature = "swift"))]
    pub(crate) fn required(&self, name: &str) -> Result<String> {
        self.named(&[name]).ok_or_else(|| {
            let environment = "the environment (or name a file with credentials=FILE in the URL)";
            let source = self.url.parameter("credentials").unwrap_or(environment);
            let context = format!("no credentials: {name} is not set in {source}");
            DestinationError::new(ErrorKind::AccessDenied, context)
        })
    }
}

/// Refuses what is no URL of HTTP, and one that holds a password.
pub(crate) fn check_http(what: &str, url: &str) -> Result<()> {
    match url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) {
        Some(rest) if rest.split('/').next().is_some_and(|host| host.contains('@')) => {
            Err(invalid(format!("{what} holds no credentials; remove the part before the @")))
        }
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(()),
        _ => Err(invalid(format!("{what} is not of the form https://HOST:PORT/..."))),
    }
}

/// Lines `NAME=value`, as shells and other programs read them: `export` and quotes may be there.
fn parse_file(path: &Path, text: &str) -> Result<HashMap<String, String>> {
    let mut values = HashMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        // The line is not repeated: it may hold a secret.
        let (name, value) = line.split_once('=').ok_or_else(|| {
            invalid(format!("{}, line {}: not of the form NAME=value", path.display(), at + 1))
        })?;
        values.insert(name.trim().to_owned(), unquote(value.trim()).to_owned());
    }
    Ok(values)
}

fn unquote(value: &str) -> &str {
    let quoted = |mark: char| value.strip_prefix(mark)?.strip_suffix(mark);
    quoted('\'').or_else(|| quoted('"')).unwrap_or(value)
}
