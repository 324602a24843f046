//! What a node shows: kept in its file, renewed in time.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use sluice_node::Credentials;
use sluice_node_api::{Certified, Identity};
use sluice_repository::Clock;

use super::profile::Profile;

/// What a node shows, and where that is kept.
pub(super) struct Shown {
    name: String,
    /// The certificate that is shown now.
    certified: Mutex<Certified>,
    /// The node of `sluice up` gets another one at each start, and keeps none.
    file: Option<(PathBuf, Mutex<Profile>)>,
    clock: Clock,
}

impl Shown {
    /// Of a node that has joined, with its file.
    pub(super) fn of(profile: Profile, path: PathBuf, clock: Clock) -> Self {
        let certified = profile.identity.as_ref().map(|own| own.certified.clone());
        let certified = Mutex::new(certified.unwrap_or_default());
        let name = profile.name.clone().unwrap_or_else(|| "node".to_owned());
        Self { name, certified, file: Some((path, Mutex::new(profile))), clock }
    }

    /// Of the node beside a server.
    pub(super) fn of_local(identity: Identity, clock: Clock) -> Self {
        let certified = Mutex::new(identity.certified.clone());
        Self { name: "local".to_owned(), certified, file: None, clock }
    }
}

impl Credentials for Shown {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn is_due(&self) -> bool {
        let certified = self.certified.lock().unwrap_or_else(PoisonError::into_inner);
        certified.is_due(self.clock.now_ms())
    }

    fn keep(&self, identity: &Identity) -> Result<(), String> {
        if let Some((path, profile)) = &self.file {
            let mut profile = profile.lock().unwrap_or_else(PoisonError::into_inner);
            profile.identity = Some(identity.clone());
            // The server takes the token too until it has seen the certificate.
            profile.write(path).map_err(|error| format!("{error:#}"))?;
        }
        let mut certified = self.certified.lock().unwrap_or_else(PoisonError::into_inner);
        certified.clone_from(&identity.certified);
        Ok(())
    }
}
