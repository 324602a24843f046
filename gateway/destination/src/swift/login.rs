//! Who logs in where, from the URL, the environment or a file of credentials.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::url::{DestinationUrl, invalid};
use crate::{DestinationError, ErrorKind, Result};

/// Text that is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(String);

impl Secret {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// How to get a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Login {
    /// With one request to Swift's own or another simple service.
    V1 { auth: String, user: String, key: Secret },
    /// From Keystone.
    V3 { auth: String, identity: Identity, project: Option<Owner>, place: Place },
}

/// Who logs in at Keystone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    Password { user: Owner, password: Secret },
    Application { id: String, secret: Secret },
}

/// A user or a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    Id(String),
    Name(String, Domain),
}

/// The domain in which a name is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Domain {
    Id(String),
    Name(String),
}

/// Which object store of a catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) interface: Interface,
    pub(super) region: Option<String>,
    pub(super) service_name: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interface {}", self.interface.name())?;
        if let Some(region) = &self.region {
            write!(f, ", region {region}")?;
        }
        if let Some(name) = &self.service_name {
            write!(f, ", service {name}")?;
        }
        Ok(())
    }
}

/// From which network a store is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interface {
    Public,
    Internal,
    Admin,
}

impl Interface {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Admin => "admin",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let all = [Self::Public, Self::Internal, Self::Admin];
        let plain = text.strip_suffix("URL").unwrap_or(text);
        all.into_iter().find(|interface| interface.name() == plain).ok_or_else(|| {
            invalid(format!("the interface is public, internal or admin, not {text:?}"))
        })
    }
}

/// Where settings are looked up: in a file, or else in the environment; the URL goes first.
pub(super) struct Settings<'a> {
    url: &'a DestinationUrl,
    /// What the file says; the environment counts when there is none.
    file: Option<HashMap<String, String>>,
    /// What to say of where credentials are looked for.
    source: String,
}

impl<'a> Settings<'a> {
    /// The settings a URL leads to.
    pub(super) fn find(url: &'a DestinationUrl) -> Result<Self> {
        let Some(path) = url.parameter("credentials").map(PathBuf::from) else {
            let source = "the environment (or name a file with credentials=FILE in the URL)";
            return Ok(Self { url, file: None, source: source.into() });
        };
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let context = format!("cannot read the credentials file {}", path.display());
            DestinationError::caused(ErrorKind::AccessDenied, context, error)
        })?;
        let file = Some(parse_file(&path, &text)?);
        Ok(Self { url, file, source: path.display().to_string() })
    }

    /// A setting that is no secret: a parameter of the URL, else one of these names.
    pub(super) fn open(&self, parameter: &str, names: &[&str]) -> Option<String> {
        self.url.parameter(parameter).map(str::to_owned).or_else(|| self.named(names))
    }

    fn named(&self, names: &[&str]) -> Option<String> {
        let given = |name: &&str| match &self.file {
            Some(file) => file.get(*name).cloned(),
            None => std::env::var(name).ok(),
        };
        names.iter().filter_map(given).find(|value| !value.is_empty())
    }

    fn required(&self, name: &str) -> Result<String> {
        self.named(&[name]).ok_or_else(|| {
            let context = format!("no Swift credentials: {name} is not set in {}", self.source);
            DestinationError::new(ErrorKind::AccessDenied, context)
        })
    }

    /// Who logs in where.
    pub(super) fn login(&self) -> Result<Login> {
        let keystone = self.open("auth", &["OS_AUTH_URL"]);
        let simple = self.open("auth", &["ST_AUTH"]);
        let version = self.url.parameter("auth_version").map(str::to_owned).unwrap_or_else(|| {
            let looks_simple = |url: &String| url.contains("/auth/v1");
            let simple = keystone.as_ref().map_or(simple.is_some(), looks_simple);
            if simple { "1".into() } else { "3".into() }
        });
        match version.as_str() {
            "1" => self.simple(simple),
            "3" => self.keystone(keystone),
            other => Err(invalid(format!("auth_version is 3 or 1, not {other:?}"))),
        }
    }

    fn simple(&self, auth: Option<String>) -> Result<Login> {
        let auth = auth.ok_or_else(|| missing_auth("ST_AUTH"))?;
        check_http("auth", &auth)?;
        let (user, key) = (self.required("ST_USER")?, Secret::new(self.required("ST_KEY")?));
        Ok(Login::V1 { auth, user, key })
    }

    fn keystone(&self, auth: Option<String>) -> Result<Login> {
        let auth = auth.ok_or_else(|| missing_auth("OS_AUTH_URL"))?;
        check_http("auth", &auth)?;
        let mut auth = auth.trim_end_matches('/').to_owned();
        if !auth.ends_with("/v3") {
            auth = format!("{}/v3", auth.strip_suffix("/v2.0").unwrap_or(&auth));
        }
        let application = self.named(&["OS_APPLICATION_CREDENTIAL_ID"]);
        let (identity, project) = match application {
            Some(id) => {
                let secret = Secret::new(self.required("OS_APPLICATION_CREDENTIAL_SECRET")?);
                (Identity::Application { id, secret }, None)
            }
            None => (self.password()?, Some(self.project()?)),
        };
        let interface = self.open("interface", &["OS_INTERFACE", "OS_ENDPOINT_TYPE"]);
        let place = Place {
            interface: interface.map_or(Ok(Interface::Public), |text| Interface::parse(&text))?,
            region: self.open("region", &["OS_REGION_NAME"]),
            service_name: self.open("service_name", &["OS_SERVICE_NAME"]),
        };
        Ok(Login::V3 { auth, identity, project, place })
    }

    fn password(&self) -> Result<Identity> {
        let user = match self.named(&["OS_USER_ID"]) {
            Some(id) => Owner::Id(id),
            None => Owner::Name(self.required("OS_USERNAME")?, self.domain("user")),
        };
        Ok(Identity::Password { user, password: Secret::new(self.required("OS_PASSWORD")?) })
    }

    fn project(&self) -> Result<Owner> {
        let named = |parameter: &str, names: &[&str]| self.open(parameter, names);
        if let Some(name) = self.url.parameter("project_name") {
            return Ok(Owner::Name(name.to_owned(), self.domain("project")));
        }
        if let Some(id) = self.named(&["OS_PROJECT_ID", "OS_TENANT_ID"]) {
            return Ok(Owner::Id(id));
        }
        named("project_name", &["OS_PROJECT_NAME", "OS_TENANT_NAME"])
            .map(|name| Owner::Name(name, self.domain("project")))
            .ok_or_else(|| {
                invalid("whose objects? Set OS_PROJECT_NAME, or add project_name=... to the URL")
            })
    }

    /// The domain of a user or a project; the one called Default when nothing is said.
    fn domain(&self, of: &str) -> Domain {
        let upper = of.to_ascii_uppercase();
        if let Some(name) = self.url.parameter(&format!("{of}_domain")) {
            return Domain::Name(name.to_owned());
        }
        if let Some(id) = self.named(&[&format!("OS_{upper}_DOMAIN_ID"), "OS_DEFAULT_DOMAIN_ID"]) {
            return Domain::Id(id);
        }
        let names = [format!("OS_{upper}_DOMAIN_NAME"), "OS_DEFAULT_DOMAIN".into()];
        let name = self.named(&[&names[0], &names[1]]);
        Domain::Name(name.unwrap_or_else(|| "Default".into()))
    }
}

fn missing_auth(name: &str) -> DestinationError {
    invalid(format!("where to log in? Set {name}, or add auth=URL to the URL"))
}

/// Refuses what is no URL of HTTP, and one that holds a password.
pub(super) fn check_http(what: &str, url: &str) -> Result<()> {
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

#[cfg(test)]
mod tests;
