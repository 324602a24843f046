//! Lists: the oldest or the newest rows that somebody may know of, a page at a time.
//!
//! Tables of lists have millions of rows, and an index for each way in which a row may be seen,
//! with what orders the list behind it: `(project_id, id)`, `(instance_id, id)`. One way follows
//! its index and stops when the page is full. Of several ways, put together by OR, both databases
//! read all rows there are and sort them; so each way is asked for a page of its own, of ids alone,
//! and the page is made of these.
//!
//! ```text
//!   project A ──► ids, a page of them ─┐
//!   project B ──► ids, a page of them ─┼─► the first of all ──► rows
//!   instance C ─► ids, a page of them ─┘
//! ```

use sqlx::any::AnyRow;

use crate::db::{Query, Tx, query};
use crate::error::Result;
use crate::found::{Span, id_prefix};
use crate::record::Page;
use crate::visible::{Visible, Way, Whose};

/// No id begins with a letter behind f.
const BEHIND_ALL: &str = "g";
/// Ways that are asked for a page each. Of more, PostgreSQL takes longer to plan than to sort all
/// rows; they are single resources mostly, which have few rows each.
const MOST_WAYS: usize = 64;

/// A list that is asked for. `$1` is where it begins, `$2` how many rows it may have.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// What is read, `SELECT ... FROM table`.
    select: String,
    table: &'static str,
    /// What orders it.
    key: &'static str,
    /// Whether rows with the same key are ordered by their ids.
    tied: bool,
    newest_first: bool,
    conditions: Vec<String>,
    values: Vec<String>,
    /// Whether a condition leaves so few rows that nothing else is to choose the index.
    narrow: bool,
    /// A column, and the values that rows may have in it: each has an index to follow.
    among: Option<(&'static str, Vec<String>)>,
}

impl Listed {
    /// The oldest rows first.
    pub(crate) fn oldest(table: &'static str, columns: &str) -> Self {
        Self {
            select: format!("SELECT {columns} FROM {table}"),
            table,
            key: "id",
            tied: false,
            newest_first: false,
            conditions: Vec::new(),
            values: Vec::new(),
            narrow: false,
            among: None,
        }
    }

    /// The newest rows first.
    pub(crate) fn newest(table: &'static str, columns: &str) -> Self {
        Self { newest_first: true, ..Self::oldest(table, columns) }
    }

    /// Ordered by another column than the id.
    pub(crate) fn by(self, key: &'static str) -> Self {
        Self { key, ..self }
    }

    /// Ordered by a column that rows share values of, and within these by ids. The value after
    /// which it begins is followed by the id, which is the first of the list's own values.
    pub(crate) fn by_time(mut self, key: &'static str, after_id: String) -> Self {
        self.values.insert(0, after_id);
        Self { key, tied: true, ..self }
    }

    /// Read by another statement, up to its table.
    pub(crate) fn reading(self, select: String) -> Self {
        Self { select, ..self }
    }

    /// Only rows for which this holds.
    pub(crate) fn only(mut self, condition: &str) -> Self {
        self.conditions.push(condition.to_owned());
        self
    }

    /// Only rows with this value, if there is one.
    pub(crate) fn with(mut self, column: &str, value: String) -> Self {
        if !value.is_empty() {
            self.values.push(value);
            self.conditions.push(format!("{column} = ${}", 2 + self.values.len()));
        }
        self
    }

    /// The same, where something else is to find the rows: neither database takes it for a reason
    /// to look into another index, for these are of columns as they are.
    pub(crate) fn also(mut self, column: &str, value: String) -> Self {
        if !value.is_empty() {
            self.values.push(value);
            self.conditions.push(format!("{column} || '' = ${}", 2 + self.values.len()));
        }
        self
    }

    /// Only rows that have one of these values in a column, whose indexes are followed.
    pub(crate) fn among(mut self, column: &'static str, values: Vec<String>) -> Self {
        (self.among, self.narrow) = (Some((column, values)), true);
        self
    }

    /// Only rows for which this holds of a value: `?` stands for that.
    pub(crate) fn holds(mut self, condition: &str, value: String) -> Self {
        self.values.push(value);
        self.conditions.push(condition.replace('?', &format!("${}", 2 + self.values.len())));
        self
    }

    /// Only rows of the one thing of these that is named first, which is found by an index of its
    /// own, and of whatever else is named.
    pub(crate) fn of_first(self, named: &[(&str, String)]) -> Self {
        named.iter().fold(self, |list, (column, value)| match list.narrow {
            true => list.also(column, value.clone()),
            false => list.of(column, value.clone()),
        })
    }

    /// Whether something that is named chooses the index.
    pub(crate) fn is_narrow(&self) -> bool {
        self.narrow
    }

    /// Only rows with ids of this time, in milliseconds since 1970: from a moment on, until before
    /// another. It begins and ends there, and reads nothing beyond.
    pub(crate) fn within(self, span: &Span) -> Self {
        match (self.newest_first, span) {
            (true, Span { since_ms: Some(since), .. }) => self.holds("id >= ?", id_prefix(*since)),
            (false, Span { until_ms: Some(until), .. }) => self.holds("id < ?", id_prefix(*until)),
            _ => self,
        }
    }

    /// Only rows of one thing, if it is named: few, and found by an index of their own.
    pub(crate) fn of(mut self, column: &str, id: String) -> Self {
        self.narrow |= !id.is_empty();
        self.with(column, id)
    }

    /// The statement, and its values from `$3`.
    fn statement(self, visible: &Visible, whose: &Whose<'_>) -> (String, Vec<String>) {
        let (sign, order) = if self.newest_first { ("<", " DESC") } else { (">", "") };
        let (key, table) = (self.key, self.table);
        let (keys, tail, begins) = match self.tied {
            true => (
                format!("{key}, id"),
                format!("ORDER BY {key}{order}, id{order} LIMIT $2"),
                format!("{key} {sign}= $1 AND ({key} {sign} $1 OR id {sign} $3)"),
            ),
            false => (
                key.to_owned(),
                format!("ORDER BY {key}{order} LIMIT $2"),
                format!("{key} {sign} $1"),
            ),
        };
        let mut conditions = vec![begins];
        conditions.extend(self.conditions.iter().cloned());
        let (mut values, mut first) = (self.values.clone(), 3 + self.values.len());
        let ways = match self.among.clone() {
            Some((column, among)) => {
                let (sieve, more) = visible.sieve(whose, first);
                first += more.len();
                conditions.push(sieve);
                values.extend(more);
                Way::each(column, among, first)
            }
            None if self.narrow => Vec::new(),
            None => visible.ways(whose, first),
        };
        if ways.len() <= 1 || ways.len() > MOST_WAYS {
            let (condition, more) = match (&self.among, self.narrow) {
                (Some(_), _) => Way::any(ways),
                (None, true) => visible.sieve(whose, first),
                (None, false) => visible.condition(whose, first),
            };
            conditions.push(condition);
            values.extend(more);
            let sql = format!("{} WHERE {} {tail}", self.select, conditions.join(" AND "));
            return (sql, values);
        }
        let conditions = conditions.join(" AND ");
        let page = |way: &Way| {
            let may = &way.condition;
            format!(
                "SELECT {keys} FROM (SELECT {keys} FROM {table} WHERE {conditions} AND {may} \
                 {tail}) AS way"
            )
        };
        let pages: Vec<String> = ways.iter().map(page).collect();
        values.extend(ways.into_iter().flat_map(|way| way.values));
        // What is seen in two ways is one row of the page.
        let pages = pages.join(" UNION ALL ");
        let found = format!("SELECT DISTINCT {keys} FROM ({pages}) AS found {tail}");
        let sql = match self.tied {
            true => format!(
                "{} WHERE id IN (SELECT id FROM ({found}) AS page) ORDER BY {key}{order}, \
                 id{order}",
                self.select
            ),
            false => format!("{} WHERE {key} IN ({found}) {tail}", self.select),
        };
        (sql, values)
    }

    /// Where a list by ids begins: behind what was shown, and at the border of the time that is
    /// asked for.
    fn begin(&self, after: Option<&String>, span: &Span) -> String {
        let border = if self.newest_first { span.until_ms } else { span.since_ms };
        match (border.map(id_prefix), after, self.newest_first) {
            (Some(border), Some(after), true) => border.min(after.clone()),
            (Some(border), Some(after), false) => border.max(after.clone()),
            (Some(border), None, _) => border,
            (None, Some(after), _) => after.clone(),
            (None, None, true) => BEHIND_ALL.to_owned(),
            (None, None, false) => String::new(),
        }
    }
}

impl Tx {
    /// A page of a list: what the caller may know of.
    pub(crate) async fn page(
        &mut self,
        list: Listed,
        (visible, whose): (&Visible, &Whose<'_>),
        page: &Page,
    ) -> Result<Vec<AnyRow>> {
        self.page_within(list, (visible, whose), page, &Span::default()).await
    }

    /// The same, of what was made within a time.
    pub(crate) async fn page_within(
        &mut self,
        list: Listed,
        (visible, whose): (&Visible, &Whose<'_>),
        page: &Page,
        span: &Span,
    ) -> Result<Vec<AnyRow>> {
        let begin = list.begin(page.after.as_ref(), span);
        let list = list.within(span);
        self.page_after(list, (visible, whose), |query| query.bind(begin), page.limit).await
    }

    /// The same of a list that is not ordered by ids; `after` binds where it begins.
    pub(crate) async fn page_after(
        &mut self,
        list: Listed,
        (visible, whose): (&Visible, &Whose<'_>),
        after: impl FnOnce(Query) -> Query,
        limit: u32,
    ) -> Result<Vec<AnyRow>> {
        let (sql, values) = list.statement(visible, whose);
        let select = after(query(sql)).bind(i64::from(limit.min(Page::LARGEST)));
        self.all(values.into_iter().fold(select, |select, value| select.bind(value))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{InstanceId, ProjectId};
    use crate::model::grant::{Resource, Scope};

    fn seen(scopes: &[Scope]) -> Visible {
        Visible::within(scopes.iter().copied())
    }

    fn list() -> Listed {
        Listed::oldest("points", "*").only("removed_ms IS NULL")
    }

    #[test]
    fn one_way_follows_its_index_and_several_have_a_page_each() {
        let (project, web) = (ProjectId::new(1), InstanceId::new(2));
        let (all, web) = (Scope::Project(project), Scope::Resource(Resource::Instance(web)));
        let whose = Whose::OF_INSTANCE;
        let tail = "ORDER BY id LIMIT $2";
        let base = "SELECT * FROM points WHERE id > $1 AND removed_ms IS NULL";
        let told = |list: Listed, scopes: &[Scope]| list.statement(&seen(scopes), &whose).0;
        assert_eq!(told(list(), &[Scope::System]), format!("{base} AND 1 = 1 {tail}"));
        assert_eq!(told(list(), &[all]), format!("{base} AND project_id IN ($3) {tail}"));
        let part = |way: &str| {
            format!(
                "SELECT id FROM (SELECT id FROM points WHERE id > $1 AND removed_ms IS NULL AND \
                 {way} {tail}) AS way"
            )
        };
        let parts = [part("project_id = $3"), part("instance_id = $4")].join(" UNION ALL ");
        let found = format!("SELECT DISTINCT id FROM ({parts}) AS found {tail}");
        let wanted = format!("SELECT * FROM points WHERE id IN ({found}) {tail}");
        let (sql, values) = list().statement(&seen(&[all, web]), &whose);
        assert_eq!((sql, values.len()), (wanted, 2));
        // Those of one instance are few: the project is looked at row by row.
        let of = list().of("instance_id", "i".to_owned());
        let wanted = format!("{base} AND instance_id = $3 AND project_id || '' IN ($4) {tail}");
        assert_eq!(told(of, &[all]), wanted);
        assert!(told(list(), &[]).contains("AND 1 = 0"));
        let many = (0..100).map(|n| Scope::Resource(Resource::Instance(InstanceId::new(n))));
        let many: Vec<Scope> = many.collect();
        assert!(told(list(), &many).contains("AND instance_id IN ($3, $4, "));
        assert_eq!(
            told(list().of("instance_id", String::new()), &[Scope::System]),
            told(list(), &[Scope::System])
        );
    }

    /// What SQLite is going to do, in a database without statistics.
    async fn plan(catalog: &crate::Catalog, sql: &str, values: Vec<String>) -> Vec<String> {
        use crate::db::Columns;
        let mut tx = catalog.read().await.unwrap();
        let select = query(format!("EXPLAIN QUERY PLAN {sql}")).bind(String::new()).bind(10);
        let select = values.into_iter().fold(select, |select, value| select.bind(value));
        let rows = tx.all(select).await.unwrap();
        rows.iter().map(|row| row.text("detail").unwrap()).collect()
    }

    /// All lists of what grows for ever, of one instance when it is named.
    fn lists(instance: &str) -> Vec<(&'static str, Listed, Whose<'static>)> {
        let of = |list: Listed| list.of("instance_id", instance.to_owned());
        let (own, task) = (Whose::OF_INSTANCE, crate::visible::OF_TASK);
        let failed = Listed::newest("tasks", "*").with("state", "failed".to_owned());
        let mut lists = vec![
            ("points", of(list()), own),
            ("tasks", of(Listed::newest("tasks", "*")), task),
            ("tasks", of(failed), task),
            ("mounts", of(Listed::newest("mounts", "*").only("state <> 'gone'")), own),
            ("restore_tests", of(Listed::newest("restore_tests", "*")), own),
            ("retention_events", of(Listed::oldest("retention_events", "*")), own),
            ("snapshots", of(Listed::newest("snapshots", "*").only("state <> 'gone'")), own),
        ];
        if instance.is_empty() {
            let audit = Listed::oldest("audit", "*").by("seq");
            lists.push(("audit", audit, crate::visible::OF_OBJECT));
        }
        lists
    }

    /// What each filter must follow: a column with a value.
    fn filtered() -> Vec<(&'static str, Listed, Whose<'static>, &'static str)> {
        use crate::id::{DestinationId, NodeId, PolicyId, ProjectId};
        use crate::model::point::PointFilter;
        use crate::model::task::{TaskFilter, TaskState};
        use crate::store::{points, tasks};
        let (own, task) = (Whose::OF_INSTANCE, crate::visible::OF_TASK);
        let none = TaskFilter::default();
        let (node, policy) = (Some(NodeId::new(3)), Some(PolicyId::new(4)));
        let (destination, project) = (Some(DestinationId::new(5)), Some(ProjectId::new(1)));
        let (kind, backup) = (Some("restore".to_owned()), Some("backup".to_owned()));
        let (failed, ended) = (Some(TaskState::Failed), Some(TaskState::Succeeded));
        let (instance, single) = (Some(InstanceId::new(2)), false);
        let tasks = [
            (TaskFilter { kind: kind.clone(), ..none.clone() }, "kind=?"),
            (TaskFilter { kind: kind.clone(), state: ended, ..none.clone() }, "kind=?"),
            (TaskFilter { kind: kind.clone(), state: failed, ..none.clone() }, "state=?"),
            (TaskFilter { node, state: failed, ..none.clone() }, "state=?"),
            (TaskFilter { node, kind: kind.clone(), project, ..none.clone() }, "kind=?"),
            (TaskFilter { destination, kind: kind.clone(), ..none.clone() }, "kind=?"),
            (TaskFilter { policy, kind: backup.clone(), ..none.clone() }, "policy_id=?"),
            (TaskFilter { destination, kind: backup, ..none.clone() }, "destination_id=?"),
            (TaskFilter { policy, destination, ..none.clone() }, "policy_id=?"),
            (TaskFilter { destination, state: ended, ..none.clone() }, "destination_id=?"),
            (TaskFilter { instance, policy, state: failed, kind, ..none.clone() }, "instance_id=?"),
            (TaskFilter { project, oldest_first: true, ..none }, "project_id=?"),
        ];
        let of_task = |(filter, column)| ("tasks", tasks::listed(&filter, single), task, column);
        let timed = |list: Listed| list.by_time("taken_ms", String::new());
        let none = PointFilter::default();
        let points = [
            (none, "taken_ms<?"),
            (PointFilter { project, ..none }, "project_id=?"),
            (PointFilter { destination, project, ..none }, "destination_id=?"),
            (PointFilter { destination, instance, ..none }, "instance_id=?"),
        ];
        let of_point = |(filter, column)| {
            ("points", points::listed(timed(Listed::newest("points", "*")), &filter), own, column)
        };
        let audit = |actor: &str, action: &str, object: &str| {
            let word = |word: &str| Some(word.to_owned()).filter(|word| !word.is_empty());
            let (actor, action, object) = (word(actor), word(action), word(object));
            let filter = crate::audit::AuditFilter { actor, action, object, ..Default::default() };
            let known = ["policy.create", "policy.delete"].map(str::to_owned).to_vec();
            crate::audit::listed(&filter, single, known)
        };
        let of_object = crate::visible::OF_OBJECT;
        let audit = [
            ("audit", audit("anna", "policy.create", ""), of_object, "actor=?"),
            ("audit", audit("", "policy.create", ""), of_object, "action=?"),
            ("audit", audit("anna", "", "an id"), of_object, "object=?"),
            ("audit", audit("", "policy.*", ""), of_object, "action=?"),
            ("audit", audit("anna", "policy.*", ""), of_object, "actor=?"),
        ];
        tasks.map(of_task).into_iter().chain(points.map(of_point)).chain(audit).collect()
    }

    #[tokio::test]
    async fn what_a_list_is_filtered_by_is_followed_and_nothing_is_sorted() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("catalog.sqlite").display());
        let catalog = crate::Catalog::open(&url).await.unwrap();
        for (table, list, whose, column) in filtered() {
            for scopes in [&[Scope::System][..], &[Scope::Project(ProjectId::new(1))]] {
                let (sql, values) = list.clone().statement(&seen(scopes), &whose);
                let told = plan(&catalog, &sql, values).await;
                let follows = |line: &String| {
                    line.starts_with(&format!("SEARCH {table} "))
                        && (line.contains(column)
                            // All that a project has of a time is as good.
                            || column == "taken_ms<?" && line.contains("project_id=?"))
                };
                assert!(told.iter().any(follows), "{column}: {sql}: {told:#?}");
                // Rows of one moment are put in the order of their ids; pages of ids are sorted.
                let sorts = |line: &String| line.contains("FOR ORDER BY");
                let pages = sql.contains("UNION ALL");
                assert!(pages || !told.iter().any(sorts), "{column}: {sql}: {told:#?}");
            }
        }
    }

    #[tokio::test]
    async fn no_list_reads_all_of_what_grows_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("catalog.sqlite").display());
        let catalog = crate::Catalog::open(&url).await.unwrap();
        let (own, other) = (Scope::Project(ProjectId::new(1)), Scope::Project(ProjectId::new(2)));
        let one = Scope::Resource(Resource::Instance(InstanceId::new(2)));
        let all: [&[Scope]; 5] = [&[Scope::System], &[own], &[one], &[own, one], &[own, other]];
        for (instance, scopes) in ["", "an id"].into_iter().flat_map(|one| all.map(|of| (one, of)))
        {
            for (table, list, whose) in lists(instance) {
                // Where it begins is always followed, and the instance where one is named.
                let follows = |line: &&String| {
                    let bound = [">?", "<?", "=?"].map(|sign| format!("{}{sign}", list.key));
                    line.starts_with("SEARCH")
                        && bound.iter().any(|bound| line.contains(bound.as_str()))
                        && (instance.is_empty() || line.contains("instance_id=?"))
                };
                let (sql, values) = list.clone().statement(&seen(scopes), &whose);
                let told = plan(&catalog, &sql, values).await;
                let looks = |line: &&String| line.split(' ').nth(1) == Some(table);
                let looks: Vec<&String> = told.iter().filter(looks).collect();
                assert!(!looks.is_empty() && looks.iter().all(follows), "{sql}: {told:#?}");
                // Pages of ids are sorted, and nothing else.
                let sorts = told.iter().any(|line| line.contains("ORDER BY"));
                assert!(!sorts || sql.contains("UNION ALL"), "{sql}: {told:#?}");
            }
        }
    }
}
