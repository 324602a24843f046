//! Whether a task may be made at all: limits for projects and instances.
//!
//! A *soft* limit warns, a *hard* one refuses. Counts are those of a window that slides: what began
//! within the last hour, say. A limit is what may be reached: with `hard: 10`, the tenth backup
//! begins and the eleventh does not.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Invalid;
use crate::time::Span;
use crate::work::TaskKind;

/// Limits of a project, for all its instances together and for each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Quota {
    /// For the project as a whole.
    pub project: Caps,
    /// For each of its instances.
    pub instance: Caps,
    /// For some of them by name, instead of what is for each.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub instances: BTreeMap<String, Caps>,
}

/// Limits; what is not said is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Caps {
    /// How many backups may begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backups: Option<CountLimit>,
    /// How many restores may begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restores: Option<CountLimit>,
    /// How large what is protected may be, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub front_end_bytes: Option<SizeLimit>,
    /// How much may be stored for it, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<SizeLimit>,
}

/// How many, in a window that slides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CountLimit {
    /// More than that warns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft: Option<u32>,
    /// More than that is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard: Option<u32>,
    /// The length of the window.
    pub window: Span,
}

/// How many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SizeLimit {
    /// More than that warns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft: Option<u64>,
    /// More than that is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard: Option<u64>,
}

impl Quota {
    /// The limits of the instance of that name.
    pub fn of_instance(&self, name: &str) -> &Caps {
        self.instances.get(name).unwrap_or(&self.instance)
    }

    /// Checks the limits.
    ///
    /// # Errors
    /// When a soft limit is above the hard one, or a window has no length.
    pub fn check(&self) -> Result<(), Invalid> {
        for caps in [&self.project, &self.instance].into_iter().chain(self.instances.values()) {
            for (field, limit) in [("backups", caps.backups), ("restores", caps.restores)] {
                let Some(CountLimit { soft, hard, window }) = limit else { continue };
                ordered(field, soft.map(u64::from), hard.map(u64::from))?;
                if window < Span::minutes(1) {
                    return Err(Invalid::new(field, "needs a window of at least 1m, such as 24h"));
                }
            }
            let sizes =
                [("front_end_bytes", caps.front_end_bytes), ("stored_bytes", caps.stored_bytes)];
            for (field, limit) in sizes {
                let Some(SizeLimit { soft, hard }) = limit else { continue };
                ordered(field, soft, hard)?;
            }
        }
        Ok(())
    }
}

fn ordered(field: &'static str, soft: Option<u64>, hard: Option<u64>) -> Result<(), Invalid> {
    match (soft, hard) {
        (None, None) => Err(Invalid::new(field, "needs a soft or a hard limit, or none at all")),
        (Some(soft), Some(hard)) if soft > hard => {
            let what = format!(
                "the soft limit {soft} is above the hard one {hard}, so that it \
                                would never warn; exchange them"
            );
            Err(Invalid::new(field, what))
        }
        _ => Ok(()),
    }
}

/// What was used, of a project or of one instance.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used<'a> {
    /// When backups began, in any order. Tasks that wait count too, by when they were made.
    pub backups: &'a [Timestamp],
    /// When restores began, likewise.
    pub restores: &'a [Timestamp],
    /// How large what is protected is.
    pub front_end_bytes: u64,
    /// How much is stored for it.
    pub stored_bytes: u64,
}

/// A task that is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What it does.
    pub kind: TaskKind,
    /// By how much what is protected grows: the size of an instance that was not protected yet.
    pub front_end_bytes: u64,
    /// By how much the store grows, as far as that is known before.
    pub stored_bytes: u64,
}

/// Whether a task may be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Hard limits that it would pass: it may not be made unless there are none.
    pub refused: Vec<Notice>,
    /// Soft limits that it would pass.
    pub warnings: Vec<Notice>,
}

impl Verdict {
    /// Whether it may be made.
    pub fn allowed(&self) -> bool {
        self.refused.is_empty()
    }

    /// When it would be allowed, if time alone can tell: the latest of all refusals.
    pub fn again(&self) -> Option<Timestamp> {
        let times: Option<Vec<_>> = self.refused.iter().map(|notice| notice.again).collect();
        times?.into_iter().max()
    }
}

/// Whose limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Scope {
    /// The project's.
    Project,
    /// The instance's.
    Instance,
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Measure {
    /// Backups that began in a window.
    Backups,
    /// Restores that began in a window.
    Restores,
    /// Bytes of what is protected.
    FrontEndBytes,
    /// Bytes that are stored.
    StoredBytes,
}

/// A limit that a task would pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Notice {
    /// Whose limit.
    pub scope: Scope,
    /// What is limited.
    pub measure: Measure,
    /// Whether it is the hard limit.
    pub hard: bool,
    /// The limit.
    pub limit: u64,
    /// What would be used, the task counted in.
    pub would_be: u64,
    /// The window, for counts.
    pub window: Option<Span>,
    /// When there is room again, if waiting is enough.
    #[serde(with = "crate::time::maybe_moment")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = "date-time"))]
    pub again: Option<Timestamp>,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, would_be, .. } = self;
        let scope = match self.scope {
            Scope::Project => "the project",
            Scope::Instance => "the instance",
        };
        let what = match self.measure {
            Measure::Backups => "backups",
            Measure::Restores => "restores",
            Measure::FrontEndBytes => "protected bytes",
            Measure::StoredBytes => "stored bytes",
        };
        let sort = if self.hard { "hard" } else { "soft" };
        write!(f, "{scope} would have {would_be} {what}")?;
        if let Some(window) = self.window {
            write!(f, " within {window}")?;
        }
        write!(f, ", above its {sort} limit of {limit}")?;
        match (self.hard, self.again) {
            (false, _) => Ok(()),
            (true, Some(again)) => write!(f, "; there is room again at {again}"),
            (true, None) => f.write_str("; raise the limit, or remove what is not needed"),
        }
    }
}

impl Quota {
    /// Judges a task that is to be made at `now`.
    pub fn judge(
        &self,
        request: Request,
        project: Used<'_>,
        instance: Used<'_>,
        now: Timestamp,
    ) -> Verdict {
        self.judge_as(&self.instance, request, project, instance, now)
    }

    /// The same for an instance with limits of its own: [`Quota::of_instance`].
    pub fn judge_as(
        &self,
        own: &Caps,
        request: Request,
        project: Used<'_>,
        instance: Used<'_>,
        now: Timestamp,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        let scopes = [(Scope::Project, &self.project, project), (Scope::Instance, own, instance)];
        for (scope, caps, used) in scopes {
            let counted = match request.kind {
                TaskKind::Backup | TaskKind::Export => {
                    caps.backups.map(|limit| (Measure::Backups, limit, used.backups))
                }
                TaskKind::Restore => {
                    caps.restores.map(|limit| (Measure::Restores, limit, used.restores))
                }
                _ => None,
            };
            if let Some((measure, limit, began)) = counted {
                count(&mut verdict, (scope, measure), limit, began, now);
            }
            if !matches!(request.kind, TaskKind::Backup | TaskKind::Export | TaskKind::Store) {
                continue;
            }
            if let Some(limit) = caps.front_end_bytes {
                let would_be = used.front_end_bytes.saturating_add(request.front_end_bytes);
                size(&mut verdict, (scope, Measure::FrontEndBytes), limit, would_be);
            }
            if let Some(limit) = caps.stored_bytes {
                // Every backup stores something, known before or not.
                let would_be = used.stored_bytes.saturating_add(request.stored_bytes.max(1));
                size(&mut verdict, (scope, Measure::StoredBytes), limit, would_be);
            }
        }
        verdict
    }
}

fn count(
    verdict: &mut Verdict,
    (scope, measure): (Scope, Measure),
    limit: CountLimit,
    began: &[Timestamp],
    now: Timestamp,
) {
    let since = limit.window.before(now);
    let mut within: Vec<Timestamp> = began.iter().copied().filter(|at| *at > since).collect();
    within.sort_unstable();
    let would_be = within.len() as u64 + 1;
    // There is room when so many have left the window that one more fits.
    let again = |most: u32| {
        let leaving = within.len().checked_sub(usize::try_from(most).ok()?)?;
        within.get(leaving).filter(|_| most > 0).map(|at| limit.window.after(*at))
    };
    let window = Some(limit.window);
    let notice = |most: u32, hard| Notice {
        scope,
        measure,
        hard,
        limit: u64::from(most),
        would_be,
        window,
        again: again(most),
    };
    match (limit.soft, limit.hard) {
        (_, Some(hard)) if would_be > u64::from(hard) => verdict.refused.push(notice(hard, true)),
        (Some(soft), _) if would_be > u64::from(soft) => verdict.warnings.push(notice(soft, false)),
        _ => {}
    }
}

fn size(
    verdict: &mut Verdict,
    (scope, measure): (Scope, Measure),
    limit: SizeLimit,
    would_be: u64,
) {
    let notice =
        |limit, hard| Notice { scope, measure, hard, limit, would_be, window: None, again: None };
    match (limit.soft, limit.hard) {
        (_, Some(hard)) if would_be > hard => verdict.refused.push(notice(hard, true)),
        (Some(soft), _) if would_be > soft => verdict.warnings.push(notice(soft, false)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
