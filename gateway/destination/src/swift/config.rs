use std::path::PathBuf;

use super::login::Login;
use crate::url::{DestinationUrl, invalid};
use crate::web::{Settings, check_http, check_prefix};
use crate::{Result, Timeouts};

/// The parameters of a Swift URL.
const PARAMETERS: [&str; 11] = [
    "auth",
    "auth_version",
    "cacert",
    "credentials",
    "interface",
    "project_domain",
    "project_name",
    "region",
    "service_name",
    "storage",
    "user_domain",
];

/// Where a container is and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwiftConfig {
    /// The container's name.
    pub container: String,
    /// What stands before every key, without slashes around it; may be empty.
    pub prefix: String,
    /// Whether a container that does not exist is made at the first put.
    pub create: bool,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    pub(super) login: Login,
    /// The account's URL, instead of what the server says.
    pub(super) storage: Option<String>,
    /// The only certificate authorities to trust.
    pub(super) authorities: Option<PathBuf>,
    /// Where to log in, as the URL has it; for messages.
    pub(super) auth: Option<String>,
}

impl SwiftConfig {
    /// The configuration a URL describes, with credentials from a file it names or from the
    /// environment.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) with what is wrong;
    /// [`AccessDenied`](crate::ErrorKind::AccessDenied) when there are no credentials.
    pub fn from_url(url: &DestinationUrl) -> Result<Self> {
        url.allow_parameters(&PARAMETERS)?;
        if url.authority().is_empty() {
            return Err(invalid("the URL names no container; write swift://CONTAINER/PREFIX"));
        }
        let settings = Settings::find(url)?;
        let storage = settings.open("storage", &["OS_STORAGE_URL"]);
        if let Some(storage) = &storage {
            check_http("storage", storage)?;
        }
        Ok(Self {
            container: url.authority().to_owned(),
            prefix: check_prefix(url.path())?,
            create: false,
            timeouts: Timeouts::default(),
            login: settings.login()?,
            storage,
            authorities: settings.open("cacert", &["OS_CACERT"]).map(PathBuf::from),
            auth: url.parameter("auth").map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<SwiftConfig> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "ST_AUTH=http://h/auth/v1.0\nST_USER=u\nST_KEY=k\n").unwrap();
        let mark = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{mark}credentials={}", file.path().display());
        SwiftConfig::from_url(&url.parse().unwrap())
    }

    #[test]
    fn prefixes_lose_the_slashes_around_them() {
        for (url, prefix) in [("swift://c", ""), ("swift://c/", ""), ("swift://c/a/b/", "a/b")] {
            assert_eq!(config(url).unwrap().prefix, prefix, "{url}");
        }
        let long = format!("swift://c/{}", "p".repeat(769));
        for bad in ["swift:///p", "swift://c/a//b", "swift://c/a/../b", "swift://c/%00", &long] {
            config(bad).unwrap_err();
        }
    }

    #[test]
    fn misspelt_parameters_and_odd_addresses_are_refused() {
        for bad in ["?regoin=x", "?storage=h:8080", "?storage=https://u:p@h/v1", "?interface=own"] {
            let bad = format!("swift://c{bad}&auth=http://h/v3&auth_version=3");
            config(&bad).unwrap_err();
        }
        config("swift://c?storage=https://h/v1/AUTH_x").unwrap();
    }
}
