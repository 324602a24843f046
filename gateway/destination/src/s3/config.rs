//! From a URL to a client: where the bucket is, and where its credentials are found.

use std::path::PathBuf;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::{AppName, BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, ProvideCredentials, RequestChecksumCalculation,
    ResponseChecksumValidation, StalledStreamProtectionConfig,
};

use super::list::ServerOrder;
use crate::key::MAX_KEY;
use crate::url::{DestinationUrl, invalid};
use crate::{DestinationError, ErrorKind, Result, Timeouts};

/// Names the file with the credentials when the URL does not.
const CREDENTIALS_VARIABLE: &str = "SLUICE_S3_CREDENTIALS_FILE";

/// The longest name S3 gives an object, in bytes.
const MAX_S3_KEY: usize = 1024;

/// Where servers other than AWS believe they are.
const REGION_OF_ENDPOINTS: &str = "us-east-1";

/// Where a bucket is and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Config {
    /// The bucket's name.
    pub bucket: String,
    /// What stands before every key, without slashes around it; may be empty.
    pub prefix: String,
    /// URL of the server; none means AWS.
    pub endpoint: Option<String>,
    /// Region; else that of the environment or profile.
    pub region: Option<String>,
    /// Whether the bucket is part of the path rather than of the host name.
    pub path_style: bool,
    /// A file of the form of `~/.aws/credentials`; else the usual AWS sources.
    pub credentials: Option<PathBuf>,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// What stands before the names of the AWS variables, when they are not the usual ones.
    pub variables: Option<&'static str>,
}

impl S3Config {
    /// The configuration a URL describes.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] with what is wrong.
    pub fn from_url(url: &DestinationUrl) -> Result<Self> {
        url.allow_parameters(&["endpoint", "region", "path-style", "credentials"])?;
        if url.authority().is_empty() {
            return Err(invalid("the URL names no bucket; write s3://BUCKET/PREFIX"));
        }
        let own = |name| url.parameter(name).map(str::to_owned);
        let endpoint = own("endpoint");
        endpoint.as_deref().map(check_endpoint).transpose()?;
        let path_style = match url.parameter("path-style") {
            None => endpoint.is_some(),
            Some("true") => true,
            Some("false") => false,
            Some(other) => {
                return Err(invalid(format!("path-style is true or false, not {other:?}")));
            }
        };
        let from_environment = || url.variable(CREDENTIALS_VARIABLE).map(PathBuf::from);
        Ok(Self {
            bucket: url.authority().to_owned(),
            prefix: check_prefix(url.path())?,
            endpoint,
            region: own("region"),
            path_style,
            credentials: own("credentials").map(PathBuf::from).or_else(from_environment),
            timeouts: Timeouts::default(),
            variables: url.variables(),
        })
    }

    /// A client whose credentials have been found, and used for nothing yet.
    pub(super) async fn client(&self, order: ServerOrder) -> Result<Client> {
        let shared = self.load().await?;
        if shared.region().is_none() {
            return Err(invalid(
                "no region is known; add region=... to the URL, or set AWS_REGION",
            ));
        }
        require_credentials(&shared).await?;
        let timeouts = TimeoutConfig::builder().connect_timeout(self.timeouts.connect).build();
        let stall = StalledStreamProtectionConfig::enabled().grace_period(self.timeouts.stall);
        let builder = Builder::from(&shared)
            // Repeating is the business of the Retry wrapper alone. A second, inner loop would
            // multiply the attempts and hide lost answers of conditional puts.
            .retry_config(RetryConfig::disabled())
            // Checksums of what is sent always; of what is read where it is a whole object.
            .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .interceptor(order)
            .force_path_style(self.path_style)
            .timeout_config(timeouts)
            .stalled_stream_protection(stall.build());
        Ok(Client::from_conf(builder.build()))
    }

    async fn load(&self) -> Result<SdkConfig> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Ok(name) = AppName::new("sluice") {
            loader = loader.app_name(name);
        }
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &self.endpoint {
            loader = self.load_for_endpoint(loader.endpoint_url(endpoint));
        }
        if let Some(path) = &self.credentials {
            std::fs::metadata(path).map_err(|error| {
                let context = format!("cannot read the credentials file {}", path.display());
                DestinationError::caused(ErrorKind::AccessDenied, context, error)
            })?;
            let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, path);
            let provider = ProfileFileCredentialsProvider::builder().profile_files(files.build());
            loader = loader.credentials_provider(provider.build());
        } else if let Some(prefix) = self.variables {
            loader = own_keys(loader, prefix, self.region.is_none());
        }
        Ok(loader.load().await)
    }

    /// Another server's region is what is configured, else the common default; asking the AWS
    /// metadata service for it would only cost time.
    fn load_for_endpoint(&self, loader: ConfigLoader) -> ConfigLoader {
        if self.region.is_some() {
            return loader;
        }
        let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
            .or_else(ProfileFileRegionProvider::new())
            .or_else(Region::from_static(REGION_OF_ENDPOINTS));
        loader.region(chain)
    }
}

/// The keys and the region in variables of its own; what is not there is looked for as always.
fn own_keys(mut loader: ConfigLoader, prefix: &str, region: bool) -> ConfigLoader {
    let own = |name: &str| {
        std::env::var(format!("{prefix}{name}")).ok().filter(|value| !value.is_empty())
    };
    let found = own("AWS_REGION").or_else(|| own("AWS_DEFAULT_REGION"));
    if let Some(region) = found.filter(|_| region) {
        loader = loader.region(Region::new(region));
    }
    match (own("AWS_ACCESS_KEY_ID"), own("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(key)) => {
            let keys = Credentials::new(id, key, own("AWS_SESSION_TOKEN"), None, "sluice");
            loader.credentials_provider(keys)
        }
        _ => loader,
    }
}

/// Finds the credentials now, so that their absence is told in one place and in plain words.
async fn require_credentials(shared: &SdkConfig) -> Result<()> {
    let help = "no S3 credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
                AWS_PROFILE, or name a file with credentials=FILE in the URL";
    let Some(provider) = shared.credentials_provider() else {
        return Err(DestinationError::new(ErrorKind::AccessDenied, help));
    };
    match provider.provide_credentials().await {
        Ok(_) => Ok(()),
        Err(error) => Err(DestinationError::caused(ErrorKind::AccessDenied, help, error)),
    }
}

fn check_endpoint(endpoint: &str) -> Result<()> {
    let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    match rest {
        Some(host) if host.contains('@') => {
            Err(invalid("the endpoint holds no credentials; remove the part before the @"))
        }
        Some(host) if !host.is_empty() && !host.starts_with('/') => Ok(()),
        _ => {
            Err(invalid(format!("the endpoint {endpoint:?} is not of the form https://HOST:PORT")))
        }
    }
}

/// The prefix in a URL's path, such that every key below it is a name S3 takes.
fn check_prefix(path: &str) -> Result<String> {
    let prefix = path.trim_matches('/');
    let odd = |segment: &str| {
        segment.is_empty()
            || segment == "."
            || segment == ".."
            || segment.contains(char::is_control)
    };
    if !prefix.is_empty() && prefix.split('/').any(odd) {
        return Err(invalid(format!("{prefix:?} cannot stand before the names of objects")));
    }
    if prefix.len() > MAX_S3_KEY - MAX_KEY - 1 {
        return Err(invalid(format!("the prefix has {} bytes, too many", prefix.len())));
    }
    Ok(prefix.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<S3Config> {
        S3Config::from_url(&text.parse().unwrap())
    }

    #[test]
    fn an_endpoint_means_path_style_unless_said_otherwise() {
        assert!(!config("s3://b/p").unwrap().path_style);
        assert!(config("s3://b/p?endpoint=http://h:1").unwrap().path_style);
        assert!(!config("s3://b/p?endpoint=http://h:1&path-style=false").unwrap().path_style);
        assert!(config("s3://b/p?path-style=true").unwrap().path_style);
        config("s3://b/p?path-style=yes").unwrap_err();
    }

    #[test]
    fn prefixes_lose_the_slashes_around_them() {
        for (url, prefix) in [("s3://b", ""), ("s3://b/", ""), ("s3://b/a/b/", "a/b")] {
            assert_eq!(config(url).unwrap().prefix, prefix, "{url}");
        }
        for bad in ["s3://b/a//b", "s3://b/a/../b", "s3://b/a%00", "s3:///p"] {
            assert_eq!(config(bad).unwrap_err().kind(), ErrorKind::InvalidConfig, "{bad}");
        }
        config(&format!("s3://b/{}", "p".repeat(769))).unwrap_err();
    }

    #[test]
    fn endpoints_are_http_urls_without_credentials() {
        for bad in ["h:9000", "ftp://h", "http://", "https:///x"] {
            config(&format!("s3://b/?endpoint={bad}")).unwrap_err();
        }
        let message = config("s3://b/?endpoint=http://u:hunter2@h").unwrap_err().to_string();
        assert!(!message.contains("hunter2"), "{message}");
    }
}
