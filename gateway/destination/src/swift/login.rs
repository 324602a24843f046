//! Who logs in where, from the URL, the environment or a file of credentials.

use std::fmt;

use crate::url::invalid;
use crate::web::{Secret, Settings, check_http};
use crate::{DestinationError, Result};

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

impl Settings<'_> {
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

#[cfg(test)]
mod tests;
