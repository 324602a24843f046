//! Destinations by URL.
//!
//! ```text
//! /srv/backup   ./backup   file:///srv/backup
//! s3://BUCKET/PREFIX?endpoint=URL&region=R&path-style=true|false&credentials=FILE
//! swift://CONTAINER/PREFIX?auth=URL&region=R&interface=public|internal|admin&credentials=FILE
//! azblob://CONTAINER/PREFIX?account=NAME&endpoint=URL&credentials=FILE
//! gcs://BUCKET/PREFIX?endpoint=URL&credentials=FILE&anonymous=true|false
//! sftp://USER@HOST:PORT/PATH?key-file=FILE&known-hosts=FILE
//! ```
//!
//! Any of them may have `arbiter=URL`, with the URL percent-encoded: the destination that decides
//! races where the store cannot (see [`Arbiter`]). `SLUICE_ARBITER` names it when the URL does not.
//!
//! Text without a scheme is a folder. A URL names where credentials are found and never holds
//! one, so it can be printed, logged and stored. Adding a destination takes its module and one
//! line in the table of schemes here.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::wrap::{Arbiter, Count, Counters, Limit, Retry, RetryPolicy};
use crate::{Destination, DestinationError, ErrorKind, Result};

/// The parameter that names the destination which decides races, whatever the store.
const ARBITER: &str = "arbiter";

/// Names the arbiter when the URL does not.
const ARBITER_VARIABLE: &str = "SLUICE_ARBITER";

/// The destinations that can be opened by URL.
const SCHEMES: &[Scheme] = &[
    crate::filesystem::SCHEME,
    #[cfg(feature = "s3")]
    crate::s3::SCHEME,
    #[cfg(feature = "swift")]
    crate::swift::SCHEME,
    #[cfg(feature = "sftp")]
    crate::sftp::SCHEME,
    #[cfg(feature = "azblob")]
    crate::azblob::SCHEME,
    #[cfg(feature = "gcs")]
    crate::gcs::SCHEME,
];

/// How a destination is known by URL.
pub(crate) struct Scheme {
    /// What stands before `://`.
    pub(crate) name: &'static str,
    /// The form of its URLs, for messages.
    pub(crate) form: &'static str,
    /// Opens the destination behind a URL of this scheme.
    pub(crate) open: for<'a> fn(&'a DestinationUrl, &'a OpenOptions) -> Opening<'a>,
}

/// A destination being opened.
pub(crate) type Opening<'a> = BoxFuture<'a, Result<Arc<dyn Destination>>>;

/// How a destination is opened, whatever it is.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Whether a folder or a Swift container that does not exist is created. Buckets never are.
    pub create: bool,
    /// Requests that run at a time.
    pub concurrency: usize,
    /// How failed requests are repeated.
    pub retry: RetryPolicy,
    /// What stands before the names of the variables that hold settings and secrets, where two
    /// destinations of one process have different ones.
    pub variables: Option<&'static str>,
}

impl Default for OpenOptions {
    /// Creates nothing, runs 32 requests at a time, repeats them for five minutes.
    fn default() -> Self {
        let retry = RetryPolicy::default();
        Self { create: false, concurrency: 32, retry, variables: None }
    }
}

/// A destination ready for use, with its statistics.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The store behind its wrappers.
    pub destination: Arc<dyn Destination>,
    /// Requests that left for the store, with the repeated ones.
    pub counters: Arc<Counters>,
}

/// Opens the destination behind `url` and wraps it for use: counted, limited, retried.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`] when the URL names nothing that can be opened;
/// [`ErrorKind::AccessDenied`] when there are no credentials.
pub async fn open(url: &str, options: &OpenOptions) -> Result<Opened> {
    let mut url: DestinationUrl = url.parse()?;
    url.variables = options.variables;
    let counters = Arc::default();
    let given = || url.variable(ARBITER_VARIABLE).filter(|value| !value.is_empty());
    let arbiter = url.parameter(ARBITER).map(str::to_owned).or_else(given);
    url.take_parameter(ARBITER);
    let Some(arbiter) = arbiter else {
        let destination = open_one(&url, options, &counters).await?;
        return Ok(Opened { destination, counters });
    };
    let mut arbiter: DestinationUrl = arbiter.parse()?;
    arbiter.variables = options.variables;
    if arbiter.parameter(ARBITER).is_some() {
        return Err(invalid("an arbiter has no arbiter of its own; remove the inner arbiter="));
    }
    let store = open_one(&url, options, &counters).await?;
    let arbiter = open_one(&arbiter, options, &counters).await?;
    Ok(Opened { destination: Arc::new(Arbiter::new(store, arbiter)), counters })
}

/// Opens one destination: counted, limited, retried.
async fn open_one(
    url: &DestinationUrl,
    options: &OpenOptions,
    counters: &Arc<Counters>,
) -> Result<Arc<dyn Destination>> {
    let store = (url.known()?.open)(url, options).await?;
    let count = Count::into(store, Arc::clone(counters));
    let limit = Limit::new(Arc::new(count), options.concurrency);
    Ok(Arc::new(Retry::new(Arc::new(limit), options.retry)))
}

/// A destination's URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationUrl {
    scheme: String,
    authority: String,
    path: String,
    parameters: Vec<(String, String)>,
    /// What stands before the names of its variables.
    variables: Option<&'static str>,
}

impl DestinationUrl {
    /// A variable of the environment that is this destination's.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        match self.variables {
            Some(prefix) => std::env::var(format!("{prefix}{name}")).ok(),
            None => std::env::var(name).ok(),
        }
    }

    /// What stands before the names of its variables, when they are not those everybody reads.
    #[cfg(feature = "s3")]
    pub(crate) fn variables(&self) -> Option<&'static str> {
        self.variables
    }

    /// What stands before `://`; `file` for a plain path.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// What stands between `://` and the next slash: a bucket, for example.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path with its leading slash, percent signs decoded; empty when there is none.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The parameters behind the question mark, decoded, in order.
    pub fn parameters(&self) -> &[(String, String)] {
        &self.parameters
    }

    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter, which the URL then has no longer.
    fn take_parameter(&mut self, name: &str) -> Option<String> {
        let at = self.parameters.iter().position(|(key, _)| key == name)?;
        Some(self.parameters.remove(at).1)
    }

    /// Refuses parameters the destination does not know: a misspelt one must not be ignored.
    pub(crate) fn allow_parameters(&self, known: &[&str]) -> Result<()> {
        for (at, (name, _)) in self.parameters.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let list = if known.is_empty() { "none".into() } else { known.join(", ") };
                return Err(invalid(format!(
                    "{}:// does not know the parameter {name:?}; it knows: {list}",
                    self.scheme
                )));
            }
            if self.parameters[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(invalid(format!("the parameter {name:?} is given twice")));
            }
        }
        Ok(())
    }

    fn known(&self) -> Result<&'static Scheme> {
        SCHEMES.iter().find(|scheme| scheme.name == self.scheme).ok_or_else(|| {
            let forms: Vec<_> = SCHEMES.iter().map(|scheme| scheme.form).collect();
            invalid(format!(
                "{:?} is no kind of destination; write one of: {}",
                self.scheme,
                forms.join(", ")
            ))
        })
    }

    fn plain_path(path: &str) -> Self {
        Self {
            scheme: "file".into(),
            authority: String::new(),
            path: path.into(),
            parameters: Vec::new(),
            variables: None,
        }
    }
}

impl FromStr for DestinationUrl {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(invalid("the destination is empty; write a folder or a URL"));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            if let Some(scheme) = looks_like_scheme(text) {
                return Err(invalid(format!(
                    "write {scheme}://..., or ./{scheme}:... for a folder of that name"
                )));
            }
            return Ok(Self::plain_path(text));
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let split = place.find('/').unwrap_or(place.len());
        let (authority, path) = place.split_at(split);
        let scheme = scheme.to_ascii_lowercase();
        let names_user = scheme == "sftp"
            && authority
                .split_once('@')
                .is_some_and(|(user, host)| !user.contains([':', '%']) && !host.contains('@'));
        if authority.contains('@') && !names_user {
            // The text is not repeated: what stands before the @ is probably secret.
            return Err(invalid(
                "a destination's URL holds no credentials; remove the part \
                                 before the @",
            ));
        }
        let url = Self {
            scheme,
            authority: authority.to_owned(),
            path: decode(path)?,
            parameters: parse_query(query)?,
            variables: None,
        };
        url.known()?;
        Ok(url)
    }
}

impl fmt::Display for DestinationUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, encode(&self.path))?;
        for (at, (name, value)) in self.parameters.iter().enumerate() {
            let mark = if at == 0 { '?' } else { '&' };
            write!(f, "{mark}{}={}", encode(name), encode(value))?;
        }
        Ok(())
    }
}

/// The error of a URL that cannot be used.
pub(crate) fn invalid(context: impl Into<String>) -> DestinationError {
    DestinationError::new(ErrorKind::InvalidConfig, context)
}

/// The scheme of a text such as `s3:bucket`, which is meant as a URL and would else be a folder.
fn looks_like_scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once(':')?;
    let known = |name: &str| SCHEMES.iter().any(|scheme| scheme.name == name);
    known(&scheme.to_ascii_lowercase()).then_some(scheme)
}

fn parse_query(query: &str) -> Result<Vec<(String, String)>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let parse = |pair: &str| {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| invalid(format!("the parameter {pair:?} has no value")))?;
        Ok((decode(name)?, decode(value)?))
    };
    pairs.map(parse).collect()
}

/// Undoes percent encoding (RFC 3986 section 2.1); a plus stays a plus.
fn decode(text: &str) -> Result<String> {
    let bad = || invalid(format!("{text:?} has a percent sign without two hex digits of UTF-8"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let (digits, tail) = tail.split_at_checked(2).ok_or_else(bad)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (Some(high), Some(low)) = (digit(digits[0]), digit(digits[1])) else {
            return Err(bad());
        };
        // Two hex digits make one byte.
        bytes.push((high * 16 + low) as u8);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// Encodes what would end a path or a parameter, and what does not print.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | b'?' | b'&' | b'#' | b' ' | 0..0x20 | 0x7F.. => {
                encoded.push_str(&format!("%{byte:02X}"));
            }
            _ => encoded.push(char::from(byte)),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> DestinationUrl {
        text.parse().unwrap()
    }

    fn refusal(text: &str) -> String {
        let error = text.parse::<DestinationUrl>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        error.to_string()
    }

    #[test]
    fn text_without_a_scheme_is_a_folder_as_it_stands() {
        for path in ["/srv/backup", "./a:b", "a b", "/odd%20name?x=1", "relative/dir"] {
            assert_eq!((parse(path).scheme(), parse(path).path()), ("file", path));
        }
        assert_eq!(parse("file:///srv/a%20b").path(), "/srv/a b");
    }

    #[test]
    fn a_url_comes_apart_and_back_together() {
        let text = "s3://bucket/some/prefix?endpoint=http://127.0.0.1:9000&region=r-1";
        let url = parse(text);
        assert_eq!((url.scheme(), url.authority(), url.path()), ("s3", "bucket", "/some/prefix"));
        assert_eq!(url.parameter("endpoint"), Some("http://127.0.0.1:9000"));
        assert_eq!(url.parameter("region"), Some("r-1"));
        assert_eq!(url.parameter("path-style"), None);
        assert_eq!(url.to_string(), text);
        let odd = parse("S3://b/p%20q%3F?credentials=/a%26b%25+c");
        assert_eq!((odd.path(), odd.parameter("credentials")), ("/p q?", Some("/a&b%+c")));
        assert_eq!(parse(&odd.to_string()), odd);
    }

    #[test]
    fn refusals_say_what_to_write() {
        let unknown = refusal("ftp://host/dir");
        assert!(unknown.contains("\"ftp\"") && unknown.contains("s3://"), "{unknown}");
        assert!(unknown.contains("file://"), "{unknown}");
        assert!(refusal("s3:bucket/x").contains("s3://"));
        assert!(refusal("").contains("empty"));
        for bad in ["s3://b/%", "s3://b/%4", "s3://b/%zz", "s3://b/%FF", "s3://b/?endpoint"] {
            refusal(bad);
        }
    }

    #[test]
    fn credentials_in_a_url_are_refused_and_not_repeated() {
        let message = refusal("s3://AKIAEXAMPLE:hunter2@bucket/prefix");
        assert!(!message.contains("hunter2") && !message.contains("AKIA"), "{message}");
    }

    #[test]
    fn unknown_and_repeated_parameters_are_refused() {
        let url = parse("s3://b/?regoin=x");
        let message = url.allow_parameters(&["region"]).unwrap_err().to_string();
        assert!(message.contains("regoin") && message.contains("region"), "{message}");
        parse("s3://b/?a=1&a=2").allow_parameters(&["a"]).unwrap_err();
        parse("s3://b/?a=1&b=2").allow_parameters(&["a", "b"]).unwrap();
    }
}
