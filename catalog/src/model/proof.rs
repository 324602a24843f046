//! How restore points are made and proven.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{CatalogError, Result};
use crate::model::policy::{Schedule, check_schedules};

/// What a backup takes for granted. Each restore point is complete, whichever made it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BackupType {
    /// What lists of changes and the restore point before say.
    #[default]
    Incremental,
    /// Nothing: every byte of the source is read and compared again, and what is known is looked
    /// up at the destination.
    Full,
}

impl BackupType {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Incremental => "incremental",
            Self::Full => "full",
        }
    }

    /// The type of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Incremental, Self::Full].into_iter().find(|one| one.word() == word)
    }

    /// Whether it is what a rule means that says nothing.
    pub(crate) fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// How deep a verification looks.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyDepth {
    /// Block maps and the tables of packs.
    #[default]
    Structure,
    /// Also a share of the blocks, read back; others each time.
    Sample,
    /// Every block, read back.
    Data,
}

impl VerifyDepth {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Sample => "sample",
            Self::Data => "data",
        }
    }

    /// The depth of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Structure, Self::Sample, Self::Data].into_iter().find(|one| one.word() == word)
    }
}

/// Which restore points of a rule are read back, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyRule {
    /// Its name within the policy.
    pub name: String,
    /// Nothing is verified while it is paused.
    #[serde(default)]
    pub paused: bool,
    /// How deep.
    #[serde(default)]
    pub depth: VerifyDepth,
    /// The share of the blocks that a sample reads, 1 to 100; only with that depth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// When all restore points of an instance at the destination are verified; without, each new
    /// one is, after its backup.
    #[serde(default)]
    pub schedules: Vec<Schedule>,
}

impl VerifyRule {
    pub(crate) fn sense(&self) -> Result<()> {
        crate::record::check_name("verification", &self.name)?;
        check_schedules(&self.schedules)?;
        let bad = CatalogError::invalid;
        match (self.depth, self.percent) {
            (VerifyDepth::Sample, Some(1..=100)) => Ok(()),
            (VerifyDepth::Sample, _) => Err(bad("a sample needs its percent, 1 to 100")),
            (_, None) => Ok(()),
            (_, Some(_)) => Err(bad("only a verification of depth sample has a percent")),
        }
    }
}

/// What a verification found of a restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Proof {
    /// Whether it found damage.
    pub state: ProofState,
    /// How deep it looked.
    pub depth: VerifyDepth,
    /// When; of damage, when it was found first, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Whether a verification found damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProofState {
    /// What it read is sound.
    Sound,
    /// Something that the restore point needs is damaged.
    Damaged,
}

impl ProofState {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sound => "sound",
            Self::Damaged => "damaged",
        }
    }

    /// The state of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Sound, Self::Damaged].into_iter().find(|one| one.word() == word)
    }
}
