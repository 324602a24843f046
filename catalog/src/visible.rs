//! What somebody may know of, as a condition of the database.
//!
//! Rows are found by the project that they belong to, and by the resources that they are or come
//! with. Whoever has a role in a project also sees what the system shares with all projects;
//! whoever has roles on single resources only sees these and nothing else.

use std::collections::BTreeSet;

use crate::id::ProjectId;
use crate::model::grant::{Resource, Scope};

/// What somebody may know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    /// Everything.
    All,
    /// What belongs to some projects, and some resources wherever they belong.
    Only {
        /// The projects.
        projects: BTreeSet<ProjectId>,
        /// The resources.
        resources: BTreeSet<Resource>,
    },
}

/// Which columns of a table say whose a row is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whose<'a> {
    /// The one that has the project.
    pub(crate) project: &'static str,
    /// Where rows of no project are shared with projects: the one that lists which, each between
    /// commas; nothing in it is all.
    pub(crate) shared: Option<&'static str>,
    /// Kinds of resources, and the columns that have their ids, maybe behind another condition.
    pub(crate) resources: &'a [(&'static str, &'static str)],
}

impl Whose<'static> {
    /// Rows that come with an instance.
    pub(crate) const OF_INSTANCE: Self =
        Self { project: "project_id", shared: None, resources: &[("instance", "instance_id")] };
}

/// Tasks come with their instance; those that have none, with their destination.
pub(crate) const OF_TASK: Whose<'static> = Whose {
    project: "project_id",
    shared: None,
    resources: &[
        ("instance", "instance_id"),
        ("destination", "instance_id = '' AND destination_id"),
    ],
};

/// Rows that tell of one record, whatever kind it is.
pub(crate) const OF_OBJECT: Whose<'static> = Whose {
    project: "project_id",
    shared: None,
    resources: &[
        ("instance", "object"),
        ("policy", "object"),
        ("destination", "object"),
        ("node", "object"),
        ("plan", "object"),
    ],
};

/// One way in which a row may be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Way {
    /// A condition.
    pub(crate) condition: String,
    /// The values of its placeholders.
    pub(crate) values: Vec<String>,
}

impl Way {
    /// A way for each value of a column, with placeholders from `$first`.
    pub(crate) fn each(column: &str, values: Vec<String>, first: usize) -> Vec<Self> {
        let way = |(at, value): (usize, String)| Self {
            condition: format!("{column} = ${}", first + at),
            values: vec![value],
        };
        values.into_iter().enumerate().map(way).collect()
    }

    /// All of them in one condition, with its values.
    pub(crate) fn any(ways: Vec<Self>) -> (String, Vec<String>) {
        let parts: Vec<&str> = ways.iter().map(|way| way.condition.as_str()).collect();
        let condition = match parts.is_empty() {
            true => "1 = 0".to_owned(),
            false => format!("({})", parts.join(" OR ")),
        };
        (condition, ways.into_iter().flat_map(|way| way.values).collect())
    }
}

impl Visible {
    /// What belongs to these projects.
    pub fn projects(projects: impl IntoIterator<Item = ProjectId>) -> Self {
        Self::Only { projects: projects.into_iter().collect(), resources: BTreeSet::new() }
    }

    /// What lies in any of these scopes.
    pub fn within(scopes: impl IntoIterator<Item = Scope>) -> Self {
        let (mut projects, mut resources) = (BTreeSet::new(), BTreeSet::new());
        for scope in scopes {
            match scope {
                Scope::System => return Self::All,
                Scope::Project(project) => {
                    projects.insert(project);
                }
                Scope::Resource(resource) => {
                    resources.insert(resource);
                }
            }
        }
        Self::Only { projects, resources }
    }

    /// Whether a project, or all that belongs to it, may be known.
    pub fn covers(&self, project: Option<ProjectId>) -> bool {
        match self {
            Self::All => true,
            Self::Only { projects, .. } => project.is_some_and(|own| projects.contains(&own)),
        }
    }

    /// Whether what belongs to a project, and is a resource or comes with it, may be known.
    pub fn sees(&self, project: Option<ProjectId>, resource: Option<Resource>) -> bool {
        self.covers(project)
            || match self {
                Self::All => true,
                Self::Only { resources, .. } => {
                    resource.is_some_and(|own| resources.contains(&own))
                }
            }
    }

    /// The same, where nothing but what belongs to a project is asked for: of whoever sees all of
    /// that, nothing else needs to be looked at.
    pub(crate) fn of_project(&self, project: Option<ProjectId>) -> Self {
        match (project, self.covers(project), self) {
            (Some(project), true, Self::Only { .. }) => Self::projects([project]),
            _ => self.clone(),
        }
    }

    /// Whether one of the resources has this id.
    pub(crate) fn names(&self, id: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only { resources, .. } => resources.iter().any(|one| one.id() == id),
        }
    }

    /// Whether what the system shares with these projects, or with all, may be known.
    pub(crate) fn has_shared(&self, visible_to: Option<&BTreeSet<ProjectId>>) -> bool {
        match self {
            Self::All => true,
            Self::Only { projects, .. } => {
                !projects.is_empty() && visible_to.is_none_or(|to| !to.is_disjoint(projects))
            }
        }
    }

    /// Whether some of it is single resources, and not told by whole projects.
    pub fn has_single(&self) -> bool {
        match self {
            Self::All => false,
            Self::Only { resources, .. } => !resources.is_empty(),
        }
    }

    /// A condition on columns, with placeholders from `$first`, and their values.
    pub(crate) fn condition(&self, columns: &Whose<'_>, first: usize) -> (String, Vec<String>) {
        self.told(columns, "", first)
    }

    /// The same, where something else has found the few rows it is asked of: neither database takes
    /// it for a reason to look into another index, for these are of columns as they are.
    pub(crate) fn sieve(&self, columns: &Whose<'_>, first: usize) -> (String, Vec<String>) {
        self.told(columns, " || ''", first)
    }

    /// Each way in which a row may be seen, with placeholders from `$first` on. Rows that are seen
    /// in several are in each of these. There are none where nothing is seen, or everything.
    pub(crate) fn ways(&self, columns: &Whose<'_>, first: usize) -> Vec<Way> {
        let Self::Only { projects, resources } = self else { return Vec::new() };
        let mut all: Vec<(&str, String)> =
            projects.iter().map(|project| (columns.project, project.to_string())).collect();
        for (word, column) in columns.resources {
            let of_kind = resources.iter().filter(|one| one.word() == *word);
            all.extend(of_kind.map(|one| (*column, one.id())));
        }
        let way = |(at, (column, value)): (usize, (&str, String))| Way {
            condition: format!("{column} = ${}", first + at),
            values: vec![value],
        };
        let mut ways: Vec<Way> = all.into_iter().enumerate().map(way).collect();
        let shared = shared(columns, projects, first + ways.len());
        ways.extend(shared.map(|(condition, values)| Way { condition, values }));
        ways
    }

    fn told(&self, columns: &Whose<'_>, behind: &str, first: usize) -> (String, Vec<String>) {
        let Self::Only { projects, resources } = self else {
            return ("1 = 1".to_owned(), Vec::new());
        };
        let of_projects: Vec<String> = projects.iter().map(ToString::to_string).collect();
        let (mut parts, mut values) = (Vec::new(), Vec::new());
        let mut add = |column: &str, found: Vec<String>| {
            if !found.is_empty() {
                let begin = first + values.len();
                let places: Vec<String> =
                    (begin..begin + found.len()).map(|n| format!("${n}")).collect();
                parts.push(format!("{column}{behind} IN ({})", places.join(", ")));
                values.extend(found);
            }
        };
        add(columns.project, of_projects);
        for (word, column) in columns.resources {
            let of_kind = resources.iter().filter(|one| one.word() == *word);
            add(column, of_kind.map(|one| one.id()).collect());
        }
        if let Some((condition, more)) = shared(columns, projects, first + values.len()) {
            parts.push(condition);
            values.extend(more);
        }
        match parts.len() {
            0 => ("1 = 0".to_owned(), values),
            1 => (parts.remove(0), values),
            _ => (format!("({})", parts.join(" OR ")), values),
        }
    }
}

/// The condition that the system shares a row with projects, and its values.
fn shared(
    columns: &Whose<'_>,
    projects: &BTreeSet<ProjectId>,
    first: usize,
) -> Option<(String, Vec<String>)> {
    let shared = columns.shared.filter(|_| !projects.is_empty())?;
    let terms = (first..first + projects.len()).map(|n| format!("{shared} LIKE ${n}"));
    let terms: Vec<String> = terms.collect();
    // SQLite nests what stands in a row, and not deeper than 1000.
    let like = terms.chunks(100).map(|some| format!(" OR ({})", some.join(" OR ")));
    let like: String = like.collect();
    let condition = format!("({} = '' AND ({shared} = ''{like}))", columns.project);
    Some((condition, projects.iter().map(|project| format!("%,{project},%")).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{InstanceId, NodeId};

    #[test]
    fn conditions_name_what_is_granted_and_nothing_without_grants() {
        let (project, instance) = (ProjectId::new(1), InstanceId::new(2));
        let (of, node) = (Whose::OF_INSTANCE, Resource::Node(NodeId::new(3)));
        assert_eq!(Visible::All.condition(&of, 3).0, "1 = 1");
        assert_eq!(Visible::within([]).condition(&of, 3).0, "1 = 0");
        assert_eq!(Visible::within([Scope::Resource(node)]).condition(&of, 3).0, "1 = 0");
        let one = Visible::within([Scope::Resource(Resource::Instance(instance))]);
        let (text, values) = one.condition(&of, 3);
        assert_eq!((text.as_str(), values), ("instance_id IN ($3)", vec![instance.to_string()]));
        let scopes = [Scope::Project(project), Scope::Resource(Resource::Instance(instance))];
        let (text, values) = Visible::within(scopes).condition(&of, 2);
        assert_eq!(text, "(project_id IN ($2) OR instance_id IN ($3))");
        assert_eq!(values, [project.to_string(), instance.to_string()]);
    }

    #[test]
    fn what_the_system_shares_is_shared_with_projects() {
        let shared = Whose { project: "project_id", shared: Some("to"), resources: &[] };
        let own = ProjectId::new(1);
        let project = Visible::projects([own]);
        let (text, values) = project.condition(&shared, 1);
        let wanted = "(project_id IN ($1) OR (project_id = '' AND (to = '' OR (to LIKE $2))))";
        assert_eq!(text, wanted);
        assert_eq!(values, [own.to_string(), format!("%,{own},%")]);
        assert!(project.has_shared(Some(&[own].into())) && !project.has_shared(Some(&[].into())));
        let one = Resource::Instance(InstanceId::new(2));
        let one = Visible::within([Scope::Resource(one)]);
        assert_eq!(one.condition(&shared, 1).0, "1 = 0");
        assert!(project.has_shared(None) && !one.has_shared(None));
        assert!(Visible::All.has_shared(Some(&[].into())));
    }
}
