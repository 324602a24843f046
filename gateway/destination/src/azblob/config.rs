use crate::url::{DestinationUrl, invalid};
use crate::web::{Secret, Settings, check_http, check_prefix};
use crate::{DestinationError, ErrorKind, Result, Timeouts};

/// Where a container is and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzblobConfig {
    /// The storage account's name.
    pub account: String,
    /// The container's name.
    pub container: String,
    /// What stands before every key, without slashes around it; may be empty.
    pub prefix: String,
    /// Whether a container that does not exist is made at the first put.
    pub create: bool,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// The account's URL, without a slash at its end.
    pub(super) endpoint: String,
    /// The same as the URL has it; for messages.
    given_endpoint: Option<String>,
    pub(super) permission: Permission,
}

/// What shows that requests are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Permission {
    /// The account's key, in base 64.
    Key(Secret),
    /// A shared access signature: parameters for every request.
    Signature(Secret),
}

impl AzblobConfig {
    /// The configuration a URL describes, with credentials from a file it names or from the
    /// environment.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] with what is wrong; [`ErrorKind::AccessDenied`] when there are
    /// no credentials.
    pub fn from_url(url: &DestinationUrl) -> Result<Self> {
        url.allow_parameters(&["account", "endpoint", "credentials"])?;
        check_container(url.authority())?;
        let settings = Settings::find(url)?;
        let account = settings.open("account", &["AZURE_STORAGE_ACCOUNT"]).ok_or_else(|| {
            invalid("whose container? Set AZURE_STORAGE_ACCOUNT, or add account=NAME to the URL")
        })?;
        let odd = |byte: u8| !(byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if account.bytes().any(odd) || account.len() > 24 {
            return Err(invalid(format!("{account:?} is no name of a storage account")));
        }
        let given_endpoint = settings.open("endpoint", &["AZURE_STORAGE_BLOB_ENDPOINT"]);
        let endpoint = match &given_endpoint {
            Some(endpoint) => {
                check_http("endpoint", endpoint)?;
                endpoint.trim_end_matches('/').to_owned()
            }
            None => format!("https://{account}.blob.core.windows.net"),
        };
        Ok(Self {
            container: url.authority().to_owned(),
            prefix: check_prefix(url.path())?,
            create: false,
            timeouts: Timeouts::default(),
            endpoint,
            given_endpoint,
            permission: permission(&settings)?,
            account,
        })
    }

    /// The URL, without what is secret.
    pub(super) fn location(&self) -> String {
        let mut url = format!("azblob://{}", self.container);
        if !self.prefix.is_empty() {
            url.push('/');
            url.push_str(&self.prefix);
        }
        url.push_str(&format!("?account={}", self.account));
        if let Some(endpoint) = &self.given_endpoint {
            url.push_str(&format!("&endpoint={}", crate::url::encode(endpoint)));
        }
        url
    }
}

fn permission(settings: &Settings<'_>) -> Result<Permission> {
    if let Some(signature) = settings.named(&["AZURE_STORAGE_SAS_TOKEN"]) {
        let signature = signature.trim_start_matches('?');
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == '#';
        if signature.contains(odd) || !signature.contains("sig=") {
            return Err(invalid("AZURE_STORAGE_SAS_TOKEN is no shared access signature"));
        }
        return Ok(Permission::Signature(Secret::new(signature)));
    }
    let key = settings.required("AZURE_STORAGE_KEY").map_err(|error| {
        let context = format!("{error}, nor is AZURE_STORAGE_SAS_TOKEN");
        DestinationError::new(ErrorKind::AccessDenied, context)
    })?;
    // The key is not repeated.
    data_encoding::BASE64.decode(key.as_bytes()).map_err(|_| {
        DestinationError::new(ErrorKind::AccessDenied, "AZURE_STORAGE_KEY is not in base 64")
    })?;
    Ok(Permission::Key(Secret::new(key)))
}

/// The rules of the service for names of containers.
fn check_container(name: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() {
        return Err(invalid("the URL names no container; write azblob://CONTAINER/PREFIX"));
    }
    if name.len() < 3 || name.len() > 63 || !name.bytes().all(fits) {
        return Err(invalid(format!(
            "{name:?} is no name of a container: 3 to 63 of a-z, 0-9 and -"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str, settings: &str) -> Result<AzblobConfig> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), settings).unwrap();
        let mark = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{mark}credentials={}", file.path().display());
        AzblobConfig::from_url(&url.parse()?)
    }

    #[test]
    fn the_account_says_where_the_service_is_unless_the_url_does() {
        let key = "AZURE_STORAGE_KEY=aGk=\nAZURE_STORAGE_ACCOUNT=acme\n";
        let plain = config("azblob://backup/a/b/", key).unwrap();
        assert_eq!(plain.endpoint, "https://acme.blob.core.windows.net");
        assert_eq!(plain.location(), "azblob://backup/a/b?account=acme");
        let own = config("azblob://backup?account=other&endpoint=http://h:1/other/", key).unwrap();
        assert_eq!((&*own.account, &*own.endpoint), ("other", "http://h:1/other"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let key = "AZURE_STORAGE_KEY=aGk=\n";
        for bad in [
            "azblob://backup",
            "azblob:///p?account=a",
            "azblob://UP?account=a",
            "azblob://backup?account=a.b/c",
            "azblob://backup/a//b?account=a",
            "azblob://backup?account=a&endpoint=h:1",
            "azblob://backup?account=a&endpoint=https://u:p@h",
            "azblob://backup?account=a&sas=x",
        ] {
            assert_eq!(config(bad, key).unwrap_err().kind(), ErrorKind::InvalidConfig, "{bad}");
        }
    }

    #[test]
    fn secrets_are_needed_and_never_shown() {
        let url = "azblob://backup?account=a";
        for (settings, kind) in [
            ("", ErrorKind::AccessDenied),
            ("AZURE_STORAGE_KEY=hunter2!", ErrorKind::AccessDenied),
            ("AZURE_STORAGE_SAS_TOKEN=hunter2", ErrorKind::InvalidConfig),
        ] {
            let error = config(url, settings).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let found = config(url, "AZURE_STORAGE_SAS_TOKEN='?sv=1&sig=hunter2'").unwrap();
        assert!(!format!("{found:?} {}", found.location()).contains("hunter2"));
    }
}
