//! Who may do what, where.

use sluice_catalog::{Grant, ProjectId, Role, Visible};

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

/// Whether these grants give a permission in a project; or, without one, in the system.
pub(crate) fn granted(
    grants: &[Grant],
    permission: Permission,
    project: Option<ProjectId>,
) -> bool {
    let holds = |grant: &&Grant| grant.project.is_none() || grant.project == project;
    grants.iter().filter(holds).any(|grant| allows(grant.role, permission))
}

/// What these grants let one know of.
pub(crate) fn visible(grants: &[Grant]) -> Visible {
    if grants.iter().any(|grant| grant.project.is_none()) {
        return Visible::All;
    }
    Visible::Projects(grants.iter().filter_map(|grant| grant.project).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_hold_where_they_were_given() {
        let (one, two) = (ProjectId::new(1), ProjectId::new(2));
        let grants = [Grant { role: Role::Manager, project: Some(one) }];
        assert!(granted(&grants, Permission::Manage, Some(one)));
        assert!(!granted(&grants, Permission::Administer, Some(one)));
        assert!(!granted(&grants, Permission::Read, Some(two)));
        assert!(!granted(&grants, Permission::Read, None));
        let system = [Grant { role: Role::Viewer, project: None }];
        assert!(granted(&system, Permission::Read, Some(two)));
        assert!(!granted(&system, Permission::Operate, Some(two)));
        assert_eq!(visible(&system), Visible::All);
        assert_eq!(visible(&grants), Visible::Projects([one].into()));
        assert_eq!(visible(&[]), Visible::Projects([].into()));
    }
}
