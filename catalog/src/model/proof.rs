//! How restore points are made and proven.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{CatalogError, Result};
use crate::id::DestinationId;
use crate::model::policy::{Rule, Schedule, check_schedules};

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
    /// At which destinations: that of the rule's backups when it is not said.
    #[serde(default, skip_serializing_if = "VerifyAt::is_usual")]
    pub at: VerifyAt,
    /// When all restore points of an instance at these destinations are verified; without, each new
    /// one is, after its backup or its copy.
    #[serde(default)]
    pub schedules: Vec<Schedule>,
}

/// At which destinations of its rule a verification looks: at those that a word stands for, or at
/// those that are named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "at: primary, copies, all, or a list of ids of destinations")]
pub enum VerifyAt {
    /// By a word.
    These(VerifyPlaces),
    /// By their ids.
    Named(BTreeSet<DestinationId>),
}

/// Destinations of a rule, in a word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyPlaces {
    /// Where backups go.
    #[default]
    Primary,
    /// Where copies go.
    Copies,
    /// Both.
    All,
}

impl Default for VerifyAt {
    fn default() -> Self {
        Self::These(VerifyPlaces::default())
    }
}

impl VerifyAt {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

impl VerifyRule {
    /// The destinations at which it looks; `rule` is the one that it belongs to.
    pub fn places(&self, rule: &Rule) -> BTreeSet<DestinationId> {
        let copies = rule.copies.iter().map(|copy| copy.destination);
        match &self.at {
            VerifyAt::These(VerifyPlaces::Primary) => [rule.destination].into(),
            VerifyAt::These(VerifyPlaces::Copies) => copies.collect(),
            VerifyAt::These(VerifyPlaces::All) => copies.chain([rule.destination]).collect(),
            VerifyAt::Named(all) => all.clone(),
        }
    }

    pub(crate) fn sense(&self, rule: &Rule) -> Result<()> {
        crate::record::check_name("verification", &self.name)?;
        check_schedules(&self.schedules)?;
        let bad = CatalogError::invalid;
        let there = |at: &DestinationId| {
            *at == rule.destination || rule.copies.iter().any(|copy| copy.destination == *at)
        };
        if !self.places(rule).iter().all(there) {
            return Err(bad(
                "a verification looks at the destination of its rule's backups, or of its copies",
            ));
        }
        if self.places(rule).is_empty() {
            return Err(bad("a verification looks somewhere: its rule has no copies, or at is []"));
        }
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
