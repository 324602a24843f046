//! What stands behind the question mark.

use serde::Deserialize;
use sluice_catalog::{InstanceId, MountState, TaskState};
use utoipa::IntoParams;

/// Which entries.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// Begin after this number.
    pub(crate) after: Option<u64>,
    /// Return so many at most: 1 to 1000.
    pub(crate) limit: Option<u32>,
}

/// Which restore points.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PointQuery {
    /// Those of this instance.
    #[param(value_type = Option<String>)]
    pub(crate) instance: Option<InstanceId>,
    /// Begin after this: `next` of the part before.
    pub(crate) after: Option<String>,
    /// Return so many at most: 1 to 1000.
    pub(crate) limit: Option<u32>,
}

/// Which tasks.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TaskQuery {
    /// Those in this state.
    pub(crate) state: Option<TaskState>,
    /// Those of this instance.
    #[param(value_type = Option<String>)]
    pub(crate) instance: Option<InstanceId>,
    /// Begin after this: `next` of the part before.
    pub(crate) after: Option<String>,
    /// Return so many at most: 1 to 1000.
    pub(crate) limit: Option<u32>,
}

/// Which mounts.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct MountQuery {
    /// Those in this state; all but those that are gone when it is not said.
    pub(crate) state: Option<MountState>,
    /// Those of this instance.
    #[param(value_type = Option<String>)]
    pub(crate) instance: Option<InstanceId>,
    /// Begin after this: `next` of the part before.
    pub(crate) after: Option<String>,
    /// Return so many at most: 1 to 1000.
    pub(crate) limit: Option<u32>,
}

/// Which lines.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogQuery {
    /// Begin after this number.
    pub(crate) after: Option<u64>,
    /// Return so many at most: 1 to 1000.
    pub(crate) limit: Option<u32>,
}
