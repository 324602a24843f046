//! Who may do what, where.

use sluice_catalog::{
    Grant, InstanceId, Kind, NodeId, PlanId, ProjectId, Record, Resource, Role, Scope, Visible,
};

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Permission {
    /// To see.
    Read,
    /// To start and end tasks.
    Operate,
    /// To change what is protected, how, and where to.
    Manage,
    /// To change who may do what, and to read the audit log.
    Administer,
}

/// Where something is: in a project or in the system; and the resource that it is or comes with,
/// on which alone roles can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) project: Option<ProjectId>,
    pub(crate) resource: Option<Resource>,
}

impl At {
    /// What comes with an instance: restore points, tasks, mounts, restore tests.
    pub(crate) fn instance(project: Option<ProjectId>, instance: InstanceId) -> Self {
        Self { project, resource: Some(Resource::Instance(instance)) }
    }

    /// What comes with a plan: its runs.
    pub(crate) fn plan(project: Option<ProjectId>, plan: PlanId) -> Self {
        Self { project, resource: Some(Resource::Plan(plan)) }
    }

    /// A node.
    pub(crate) fn node(node: NodeId) -> Self {
        Self { project: None, resource: Some(Resource::Node(node)) }
    }
}

/// A project with all that is in it; the system without one. No role on a resource is enough.
impl From<Option<ProjectId>> for At {
    fn from(project: Option<ProjectId>) -> Self {
        Self { project, resource: None }
    }
}

impl<K: Kind> From<&Record<K>> for At {
    fn from(record: &Record<K>) -> Self {
        let project = K::is_project(record.id).or(record.project);
        Self { project, resource: K::resource(record.id) }
    }
}

/// Whether a role has a permission. Each role has all that the weaker ones have.
pub(crate) fn allows(role: Role, permission: Permission) -> bool {
    let most = match role {
        Role::Viewer => Permission::Read,
        Role::Operator => Permission::Operate,
        Role::Manager => Permission::Manage,
        Role::Admin => Permission::Administer,
    };
    permission <= most
}

/// Whether these grants give a permission somewhere.
pub(crate) fn granted(grants: &[Grant], permission: Permission, at: impl Into<At>) -> bool {
    let at = at.into();
    let holds = |grant: &&Grant| match grant.scope {
        Scope::System => true,
        Scope::Project(project) => at.project == Some(project),
        Scope::Resource(resource) => at.resource == Some(resource),
    };
    grants.iter().filter(holds).any(|grant| allows(grant.role, permission))
}

/// What these grants let one know of.
pub(crate) fn visible(grants: &[Grant]) -> Visible {
    Visible::within(grants.iter().map(|grant| grant.scope))
}

/// Where these grants give a permission.
pub(crate) fn visible_with(grants: &[Grant], permission: Permission) -> Visible {
    let enough = grants.iter().filter(|grant| allows(grant.role, permission));
    Visible::within(enough.map(|grant| grant.scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_hold_where_they_were_given() {
        let (one, two) = (ProjectId::new(1), ProjectId::new(2));
        let grants = [Grant::project(Role::Manager, one)];
        assert!(granted(&grants, Permission::Manage, Some(one)));
        assert!(!granted(&grants, Permission::Administer, Some(one)));
        assert!(!granted(&grants, Permission::Read, Some(two)));
        assert!(!granted(&grants, Permission::Read, None));
        let system = [Grant::system(Role::Viewer)];
        assert!(granted(&system, Permission::Read, Some(two)));
        assert!(!granted(&system, Permission::Operate, Some(two)));
        assert_eq!(visible(&system), Visible::All);
        assert_eq!(visible(&grants), Visible::projects([one]));
        assert_eq!(visible(&[]), Visible::projects([]));
    }

    #[test]
    fn a_role_on_a_resource_holds_there_and_nowhere_else() {
        let (project, own, other) = (ProjectId::new(1), InstanceId::new(2), InstanceId::new(3));
        let grants = [Grant::resource(Role::Operator, Resource::Instance(own))];
        let may = |permission, at: At| granted(&grants, permission, at);
        assert!(may(Permission::Operate, At::instance(Some(project), own)));
        assert!(!may(Permission::Manage, At::instance(Some(project), own)));
        assert!(!may(Permission::Read, At::instance(Some(project), other)));
        assert!(!may(Permission::Read, Some(project).into()), "not the project around it");
        assert!(!may(Permission::Read, None.into()), "and not the system");
        let around = [Grant::project(Role::Admin, project)];
        assert!(granted(&around, Permission::Administer, At::instance(Some(project), own)));
        let sees = visible(&grants);
        assert!(sees.sees(Some(project), Some(Resource::Instance(own))));
        assert!(!sees.sees(Some(project), Some(Resource::Instance(other))));
        assert!(!sees.covers(Some(project)) && !sees.covers(None));
        assert_eq!(visible_with(&grants, Permission::Administer), Visible::projects([]));
    }
}
