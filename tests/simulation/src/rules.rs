//! The rules of the protocol, each of which can be switched off.

/// A rule that is there for safety. Without it something must go wrong in some world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// W2: after writing the session record, look again whether the parent was tombstoned.
    RecheckParent,
    /// W3: collections are read after the session record was written, not before.
    ReadCollectionsLate,
    /// W4: no new reference to a pack that a condemned list names.
    AvoidCondemned,
    /// W4: no new reference to a tainted pack.
    AvoidTainted,
    /// W4: the pack's own table says whether a slot is there.
    ConfirmSlot,
    /// W5: collections are read once more right before the commit.
    ReadBeforeCommit,
    /// W5: packs that are used and condemned are written down as needed.
    RecordNeeds,
    /// W5: so are packs that are used and tainted by a collection that ended unseen.
    NeedTainted,
    /// W5: `seen_gen` says which condemned list was read, not which plan was seen.
    SeenMeansRead,
    /// W5: a session that does not find its record gives up.
    OwnRecord,
    /// A damaged session record is removed only when it is old.
    MendTheOld,
    /// A collection whose list is damaged ends with everything tainted that is there.
    TaintAll,
    /// W7: the session record stays until the outcome at `r/` is known for certain.
    KnowOutcome,
    /// C2: packs are listed before anything that may refer to them.
    PacksFirst,
    /// C2 and C6: sessions are listed before commits.
    SessionsBeforeCommits,
    /// C2 and C6: tombstones are listed before sessions.
    TombstonesBeforeSessions,
    /// C2 and C6: tombstones are listed before pins.
    TombstonesBeforePins,
    /// C4: packs of open sessions are not condemned.
    SpareOpenSessions,
    /// C4: a condemned list that exists is the one to use.
    AdoptCondemned,
    /// C4: having the condemned list, look whether the generation is over already.
    StillUnfinished,
    /// C5: wait until all sessions have seen the condemned list.
    Quiesce,
    /// C5: a session is given up by ABORT at its commit record before its record is deleted.
    FenceFirst,
    /// C5: a session known to be dead is fenced like any other.
    FenceTheDead,
    /// C6: roots are listed and marked again.
    Remark,
    /// C6: the session records used for marking have all seen the condemned list.
    RecheckSeen,
    /// C6: packs in `needs` of open sessions are rescued.
    RescueNeeds,
    /// C6: what was a root in C2 stays one.
    KeepFirstRoots,
    /// C6: the parents of open sessions are roots.
    ParentsAreRoots,
    /// C6: pinned points are roots.
    PinsAreRoots,
    /// C7: a moved pack is complete at its new name before the old one is deleted.
    MoveBeforeDelete,
    /// C8: the commit record goes, the tombstone stays.
    KeepTombstones,
    /// C8: ABORTs are never deleted.
    KeepAborts,
    /// C9: rescued packs are tainted.
    TaintRescued,
    /// C9: so are the packs that were deleted: their names may come back.
    TaintDeleted,
    /// Mount: after writing the pin, look again whether the point was tombstoned.
    CheckAfterPin,
}

impl Rule {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::RecheckParent,
        Self::ReadCollectionsLate,
        Self::AvoidCondemned,
        Self::AvoidTainted,
        Self::ConfirmSlot,
        Self::ReadBeforeCommit,
        Self::RecordNeeds,
        Self::NeedTainted,
        Self::SeenMeansRead,
        Self::OwnRecord,
        Self::MendTheOld,
        Self::TaintAll,
        Self::KnowOutcome,
        Self::PacksFirst,
        Self::SessionsBeforeCommits,
        Self::TombstonesBeforeSessions,
        Self::TombstonesBeforePins,
        Self::SpareOpenSessions,
        Self::AdoptCondemned,
        Self::StillUnfinished,
        Self::Quiesce,
        Self::FenceFirst,
        Self::FenceTheDead,
        Self::Remark,
        Self::RecheckSeen,
        Self::RescueNeeds,
        Self::KeepFirstRoots,
        Self::ParentsAreRoots,
        Self::PinsAreRoots,
        Self::MoveBeforeDelete,
        Self::KeepTombstones,
        Self::KeepAborts,
        Self::TaintRescued,
        Self::TaintDeleted,
        Self::CheckAfterPin,
    ];
}

/// Which rules are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules(u64);

impl Rules {
    /// The protocol as it is.
    pub const ALL: Self = Self(u64::MAX);

    /// All rules but this one.
    #[must_use]
    pub const fn without(self, rule: Rule) -> Self {
        Self(self.0 & !(1 << rule as u64))
    }

    /// Whether a rule is in force.
    #[must_use]
    pub const fn has(self, rule: Rule) -> bool {
        self.0 & (1 << rule as u64) != 0
    }
}
