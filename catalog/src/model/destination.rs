use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::kind;
use crate::error::{CatalogError, Result};
use crate::id::{DestinationId, ProjectId};
use crate::model::policy::{Schedule, check_schedules};

/// A repository that backups go to. Its passphrase and other secrets are sealed beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Where the repository is, as `--repo` takes it: `/path`, `s3://BUCKET/PREFIX?...`. Without
    /// secrets.
    pub url: String,
    /// Variables that nodes set for `sluice` beside the secrets, such as `AWS_REGION`.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// What is done to the repository as a whole, and when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maintenance: Vec<Maintenance>,
    /// The projects that may see and use it, when it belongs to the system; all of them when it is
    /// not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub visible_to: Option<BTreeSet<ProjectId>>,
}

/// The most kinds of work on a destination.
const MOST_MAINTENANCE: usize = 16;

/// Work on a repository as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    /// Its name within the destination.
    pub name: String,
    /// What is done.
    pub work: MaintenanceWork,
    /// When it is done.
    pub schedules: Vec<Schedule>,
}

/// What is done to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MaintenanceWork {
    /// What no restore point needs is freed.
    Collect,
    /// Restore points are checked: that all they need is there.
    Verify,
    /// The same, and all data is read.
    VerifyData,
}

impl Destination {
    fn sense(&self) -> Result<()> {
        if self.url.is_empty() || self.url.len() > 2048 {
            return Err(CatalogError::invalid("a destination needs the URL of a repository"));
        }
        let inside = self.url.split_once("://").map_or("", |(_, rest)| rest);
        let authority = inside.split('/').next().unwrap_or_default();
        if authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) {
            return Err(CatalogError::invalid("a URL holds no password: give it as a secret"));
        }
        for name in self.environment.keys() {
            check_variable(name)?;
        }
        if self.maintenance.len() > MOST_MAINTENANCE {
            return Err(CatalogError::invalid("a destination has 16 kinds of maintenance at most"));
        }
        let mut names = BTreeSet::new();
        for one in &self.maintenance {
            crate::record::check_name("maintenance", &one.name)?;
            check_schedules(&one.schedules)?;
            for schedule in &one.schedules {
                if !names.insert((&one.name, &schedule.name)) {
                    let text = "two schedules of a destination's maintenance have the same name";
                    return Err(CatalogError::invalid(text));
                }
            }
        }
        Ok(())
    }
}

/// Variables that say what is run and where to look for it are not for a destination to set.
pub(crate) fn check_variable(name: &str) -> Result<()> {
    let shaped = !name.is_empty()
        && name.bytes().all(|b| b == b'_' || b.is_ascii_uppercase() || b.is_ascii_digit());
    let known = ["AWS_", "OS_", "SLUICE_", "AZURE_", "GOOGLE_", "GCS_"];
    if shaped && known.iter().any(|start| name.starts_with(start)) {
        return Ok(());
    }
    let text = format!("{name}: variables of destinations begin with one of {}", known.join(", "));
    Err(CatalogError::invalid(text))
}

kind!(Destination, DestinationId, "destinations", "destination", shared by visible_to);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> Destination {
        let (description, environment) = (String::new(), BTreeMap::new());
        let (url, maintenance) = (url.into(), vec![]);
        Destination { description, url, environment, maintenance, visible_to: None }
    }

    #[test]
    fn a_password_in_a_url_is_refused() {
        assert!(at("/backup").sense().is_ok() && at("s3://bucket/p?region=r").sense().is_ok());
        assert!(at("sftp://me@host/path").sense().is_ok());
        assert!(at("sftp://me:secret@host/path").sense().is_err());
        assert!(at("").sense().is_err());
    }

    #[test]
    fn maintenance_has_names_and_schedules_that_make_sense() {
        let fits = |maintenance: &str| {
            let text = format!(r#"{{"url": "/backup", "maintenance": {maintenance}}}"#);
            serde_json::from_str::<Destination>(&text).is_ok_and(|one| one.sense().is_ok())
        };
        let often = r#"{"name": "often", "when": {"kind": "every", "seconds": 5}}"#;
        let one = |name: &str, work: &str, schedule: &str| {
            format!(r#"{{"name": "{name}", "work": "{work}", "schedules": [{schedule}]}}"#)
        };
        let (collect, verify) = (one("a", "collect", often), one("b", "verify-data", often));
        assert!(fits("[]") && fits(&format!("[{collect}, {verify}]")));
        assert!(!fits(&format!("[{collect}, {collect}]")), "twice the same name");
        assert!(!fits(&format!("[{}]", one("a", "destroy", often))));
        assert!(!fits(&format!("[{}]", one("", "collect", often))));
        let never = often.replace('5', "0");
        assert!(!fits(&format!("[{}]", one("a", "collect", &never))));
        assert!(!fits(&format!("[{}]", vec![collect; 17].join(","))));
    }

    #[test]
    fn variables_that_change_what_runs_are_refused() {
        for (name, fits) in [("AWS_REGION", true), ("LD_PRELOAD", false), ("aws_x", false)] {
            assert_eq!(check_variable(name).is_ok(), fits, "{name}");
        }
    }
}
