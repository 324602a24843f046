//! The descriptor: the `format` object (`docs/format/`, section 3).

use serde::{Deserialize, Serialize};
use sluice_destination::Capabilities;

use super::checked::with_check;
use super::id::RepositoryId;
use super::{FormatError, MAJOR, MINOR, MINOR_EPOCHS, Parsed, READER, READER_EPOCHS};

/// Text that tells a descriptor from other JSON.
pub const MAGIC: &str = "sluice repository";

/// What a repository says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// [`MAGIC`].
    pub magic: String,
    /// The repository's id in hex.
    pub id: String,
    /// Major version of the format.
    pub major: u16,
    /// Minor version of the format.
    pub minor: u16,
    /// What a reader must know at least: see [`READER`].
    pub min_reader: u16,
    /// What a writer must know at least.
    pub min_writer: u16,
    /// When it was created, RFC 3339.
    pub created: String,
    /// "aes-256-gcm", or "open" when the key lies beside the data.
    pub encryption: String,
    /// Who decides commit races: "store", or "external" when another destination does.
    pub arbiter: String,
    /// What the destination was seen to do.
    #[serde(default)]
    pub capabilities: Capabilities,
}

impl Descriptor {
    /// A descriptor of this version.
    pub fn new(id: RepositoryId, created: String, open: bool, capabilities: Capabilities) -> Self {
        Self {
            magic: MAGIC.into(),
            id: id.hex(),
            major: MAJOR,
            minor: MINOR,
            min_reader: MAJOR,
            min_writer: MAJOR,
            created,
            encryption: if open { "open" } else { "aes-256-gcm" }.into(),
            arbiter: "store".into(),
            capabilities,
        }
    }

    /// The same for a repository with more than one data epoch: earlier programs refuse it
    /// instead of taking what they cannot open for damage.
    pub fn with_epochs(&self) -> Self {
        Self {
            minor: self.minor.max(MINOR_EPOCHS),
            min_reader: self.min_reader.max(READER_EPOCHS),
            min_writer: self.min_writer.max(READER_EPOCHS),
            ..self.clone()
        }
    }

    /// Whether there may be more than one data epoch.
    pub fn has_epochs(&self) -> bool {
        self.min_reader >= READER_EPOCHS
    }

    /// The descriptor's bytes.
    pub fn encode(&self) -> Vec<u8> {
        with_check(serde_json::to_vec_pretty(self).expect("a descriptor is plain JSON"))
    }

    /// Reads a descriptor.
    ///
    /// # Errors
    /// [`FormatError::Newer`] when a newer reader is needed.
    pub fn decode(bytes: &[u8]) -> Parsed<Self> {
        #[derive(Deserialize)]
        struct Versions {
            magic: String,
            #[serde(default)]
            major: u16,
            min_reader: u16,
        }
        // Versions first: a newer descriptor may differ in everything else.
        let versions: Versions = serde_json::from_slice(bytes)
            .map_err(|_| FormatError::Invalid("descriptor is not of a sluice repository"))?;
        if versions.magic != MAGIC {
            return Err(FormatError::Invalid("descriptor is not of a sluice repository"));
        }
        if versions.min_reader > READER || versions.major > MAJOR {
            let version = versions.min_reader.max(versions.major);
            return Err(FormatError::Newer(format!("format version {version}")));
        }
        serde_json::from_slice(bytes).map_err(|_| FormatError::Invalid("descriptor fields"))
    }

    /// The repository's id.
    ///
    /// # Errors
    /// When it is not hex of 16 bytes.
    pub fn id(&self) -> Parsed<RepositoryId> {
        RepositoryId::from_hex(&self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_round_trip_and_newer_ones_are_named() {
        let capabilities = Capabilities::default();
        let made = Descriptor::new(RepositoryId([1; 16]), "now".into(), false, capabilities);
        assert_eq!(Descriptor::decode(&made.encode()).unwrap(), made);
        let newer = br#"{"magic":"sluice repository","min_reader":3,"odd":[]}"#;
        assert!(matches!(Descriptor::decode(newer), Err(FormatError::Newer(_))));
        let newer = br#"{"magic":"sluice repository","major":2,"min_reader":2,"odd":[]}"#;
        assert!(matches!(Descriptor::decode(newer), Err(FormatError::Newer(_))));
        let epochs = made.with_epochs();
        assert!(epochs.has_epochs() && !made.has_epochs());
        assert_eq!(Descriptor::decode(&epochs.encode()).unwrap(), epochs);
        assert!(matches!(Descriptor::decode(b"{}"), Err(FormatError::Invalid(_))));
    }
}
