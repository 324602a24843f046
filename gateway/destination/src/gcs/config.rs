//! Where a bucket is, and what shows that requests are allowed: in this order
//!
//! 1. `anonymous=true` in the URL: nothing is shown, for emulators and public buckets;
//! 2. `credentials=FILE` in the URL: a service account's key, or a file with the names below;
//! 3. `GOOGLE_OAUTH_ACCESS_TOKEN`: a token that is used as it is;
//! 4. `SLUICE_GCS_TOKEN_FILE`: a file with a token, read again when the token is refused or a
//!    few minutes have passed;
//! 5. `GOOGLE_APPLICATION_CREDENTIALS`: the file of a service account's key;
//! 6. `SLUICE_GCS_METADATA=1`: the machine's own account, from the metadata server.

use std::path::{Path, PathBuf};

use super::jwt::ServiceKey;
use crate::url::{DestinationUrl, invalid};
use crate::web::{Secret, Settings, check_http, check_prefix};
use crate::{DestinationError, ErrorKind, Result, Timeouts};

/// The service itself.
const SERVICE: &str = "https://storage.googleapis.com";

/// Where a machine in Google's cloud asks who it is.
const METADATA: &str = "metadata.google.internal";

/// Where a bucket is and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcsConfig {
    /// The bucket's name.
    pub bucket: String,
    /// What stands before every key, without slashes around it; may be empty.
    pub prefix: String,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// The service's URL, without a slash at its end.
    pub(super) endpoint: String,
    /// The same as the URL has it; for messages.
    given_endpoint: Option<String>,
    pub(super) login: Login,
}

/// Where tokens come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Login {
    /// No token is sent.
    Anonymous,
    /// One that is not renewed.
    Token(Secret),
    /// From a file that somebody else keeps fresh.
    File(PathBuf),
    /// From an exchange for what a service account's key has signed.
    Key(Box<ServiceKey>),
    /// From the metadata server of this host name.
    Metadata(String),
}

impl GcsConfig {
    /// The configuration a URL describes, with credentials from a file it names or from the
    /// environment.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] with what is wrong; [`ErrorKind::AccessDenied`] when there are
    /// no credentials.
    pub fn from_url(url: &DestinationUrl) -> Result<Self> {
        url.allow_parameters(&["anonymous", "credentials", "endpoint"])?;
        check_bucket(url.authority())?;
        let given_endpoint = url.parameter("endpoint").map(str::to_owned);
        let endpoint = given_endpoint.as_deref().unwrap_or(SERVICE).trim_end_matches('/');
        check_http("endpoint", endpoint)?;
        let login = login(url)?;
        if login != Login::Anonymous {
            check_private("endpoint", endpoint)?;
        }
        Ok(Self {
            bucket: url.authority().to_owned(),
            prefix: check_prefix(url.path())?,
            timeouts: Timeouts::default(),
            endpoint: endpoint.to_owned(),
            given_endpoint,
            login,
        })
    }

    /// The URL, without where credentials are.
    pub(super) fn location(&self) -> String {
        let mut url = format!("gcs://{}", self.bucket);
        if !self.prefix.is_empty() {
            url.push('/');
            url.push_str(&self.prefix);
        }
        if let Some(endpoint) = &self.given_endpoint {
            url.push_str(&format!("?endpoint={}", crate::url::encode(endpoint)));
        }
        url
    }
}

fn login(url: &DestinationUrl) -> Result<Login> {
    match url.parameter("anonymous") {
        Some("true") if url.parameter("credentials").is_some() => {
            return Err(invalid("anonymous=true and credentials=FILE exclude each other"));
        }
        Some("true") => return Ok(Login::Anonymous),
        None | Some("false") => {}
        Some(_) => return Err(invalid("anonymous is true or false")),
    }
    if let Some(path) = url.parameter("credentials").map(Path::new) {
        let text = read(path)?;
        if text.trim_start().starts_with('{') {
            return Ok(Login::Key(Box::new(ServiceKey::parse(path, &text)?)));
        }
    }
    let settings = Settings::find(url)?;
    let named = |name: &str| settings.named(&[name]);
    if let Some(token) = named("GOOGLE_OAUTH_ACCESS_TOKEN") {
        return Ok(Login::Token(Secret::new(token)));
    }
    if let Some(path) = named("SLUICE_GCS_TOKEN_FILE") {
        return Ok(Login::File(path.into()));
    }
    if let Some(path) = named("GOOGLE_APPLICATION_CREDENTIALS") {
        let path = Path::new(&path);
        return Ok(Login::Key(Box::new(ServiceKey::parse(path, &read(path)?)?)));
    }
    match named("SLUICE_GCS_METADATA").as_deref() {
        Some("1") => {
            let host = named("GCE_METADATA_HOST").unwrap_or_else(|| METADATA.into());
            check_http("GCE_METADATA_HOST", &format!("http://{host}"))?;
            Ok(Login::Metadata(host))
        }
        None | Some("0") => Err(DestinationError::new(
            ErrorKind::AccessDenied,
            "no credentials: set GOOGLE_APPLICATION_CREDENTIALS to the file of a service \
             account's key, or SLUICE_GCS_METADATA=1 on a machine in Google's cloud, or add \
             credentials=FILE to the URL",
        )),
        Some(_) => Err(invalid("SLUICE_GCS_METADATA is 1 or 0")),
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| {
        let context = format!("cannot read the credentials file {}", path.display());
        DestinationError::caused(ErrorKind::AccessDenied, context, error)
    })
}

/// Refuses to send what is secret over a network where others can read it.
pub(super) fn check_private(what: &str, url: &str) -> Result<()> {
    let Some(rest) = url.strip_prefix("http://") else { return Ok(()) };
    let place = rest.split('/').next().unwrap_or_default();
    let host = match place.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => place.split(':').next().unwrap_or_default(),
    };
    let is_loopback = |ip: std::net::IpAddr| ip.is_loopback();
    if host == "localhost" || host.parse().is_ok_and(is_loopback) {
        return Ok(());
    }
    Err(invalid(format!("{what} is plain HTTP, and a token would be sent to it; use https://")))
}

/// The rules of the service for names of buckets.
fn check_bucket(name: &str) -> Result<()> {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = |byte: u8| alphanumeric(byte) || b"-_.".contains(&byte);
    if name.is_empty() {
        return Err(invalid("the URL names no bucket; write gcs://BUCKET/PREFIX"));
    }
    let mut ends = name.bytes().next().into_iter().chain(name.bytes().last());
    if name.len() < 3 || name.len() > 222 || !name.bytes().all(fits) || !ends.all(alphanumeric) {
        return Err(invalid(format!(
            "{name:?} is no name of a bucket: 3 to 63 of a-z, 0-9, -, _ and ."
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str, settings: &str) -> Result<GcsConfig> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), settings).unwrap();
        let mark = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{mark}credentials={}", file.path().display());
        GcsConfig::from_url(&url.parse()?)
    }

    const TOKEN: &str = "GOOGLE_OAUTH_ACCESS_TOKEN=hunter2\n";

    #[test]
    fn the_service_is_where_it_is_unless_the_url_says_else() {
        let plain = config("gcs://backup/a/b/", TOKEN).unwrap();
        assert_eq!((&*plain.endpoint, &*plain.location()), (SERVICE, "gcs://backup/a/b"));
        let own = config("gcs://backup?endpoint=https://h:1/", TOKEN).unwrap();
        assert_eq!(own.endpoint, "https://h:1");
        assert_eq!(own.location(), "gcs://backup?endpoint=https://h:1/");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in [
            "gcs:///p",
            "gcs://UP",
            "gcs://ab",
            "gcs://-abc",
            "gcs://abc.",
            "gcs://backup/a//b",
            "gcs://backup?endpoint=h:1",
            "gcs://backup?endpoint=https://u:p@h",
            "gcs://backup?endpoint=http://h.example",
            "gcs://backup?endpoint=http://127.0.0.1.example",
            "gcs://backup?anonymous=yes",
            "gcs://backup?anonymous=true",
            "gcs://backup?token=x",
        ] {
            assert_eq!(config(bad, TOKEN).unwrap_err().kind(), ErrorKind::InvalidConfig, "{bad}");
        }
        for local in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost/x"] {
            config(&format!("gcs://backup?endpoint={local}"), TOKEN).unwrap();
        }
    }

    #[test]
    fn anonymous_requests_may_go_anywhere() {
        let url = "gcs://backup?anonymous=true&endpoint=http://emulator.example:1";
        let found = GcsConfig::from_url(&url.parse().unwrap()).unwrap();
        assert_eq!(found.login, Login::Anonymous);
    }

    #[test]
    fn secrets_are_needed_and_never_shown() {
        assert_eq!(config("gcs://backup", "").unwrap_err().kind(), ErrorKind::AccessDenied);
        let found = config("gcs://backup", TOKEN).unwrap();
        assert!(!format!("{found:?} {}", found.location()).contains("hunter2"));
    }

    #[test]
    fn tokens_come_from_where_the_settings_say() {
        let login = |settings| config("gcs://backup", settings).map(|config| config.login);
        let file = login("SLUICE_GCS_TOKEN_FILE=/run/token\nSLUICE_GCS_METADATA=1\n").unwrap();
        assert_eq!(file, Login::File("/run/token".into()));
        let metadata = login("SLUICE_GCS_METADATA=1\n").unwrap();
        assert_eq!(metadata, Login::Metadata(METADATA.into()));
        let other = login("SLUICE_GCS_METADATA=1\nGCE_METADATA_HOST=127.0.0.1:1\n").unwrap();
        assert_eq!(other, Login::Metadata("127.0.0.1:1".into()));
        let error = login("SLUICE_GCS_METADATA=yes\n").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        let error = login("GOOGLE_APPLICATION_CREDENTIALS=/no/such/key.json\n").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied);
    }
}
