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
    newest_first: bool,
    conditions: Vec<String>,
    values: Vec<String>,
    /// Whether a condition leaves so few rows that nothing else is to choose the index.
    narrow: bool,
}

impl Listed {
    /// The oldest rows first.
    pub(crate) fn oldest(table: &'static str, columns: &str) -> Self {
        Self {
            select: format!("SELECT {columns} FROM {table}"),
            table,
            key: "id",
            newest_first: false,
            conditions: Vec::new(),
            values: Vec::new(),
            narrow: false,
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

    /// Only rows of one thing, if it is named: few, and found by an index of their own.
    pub(crate) fn of(mut self, column: &str, id: String) -> Self {
        self.narrow |= !id.is_empty();
        self.with(column, id)
    }

    /// The statement, and its values from `$3`.
    fn statement(self, visible: &Visible, whose: &Whose<'_>) -> (String, Vec<String>) {
        let (sign, order) = if self.newest_first { ("<", " DESC") } else { (">", "") };
        let tail = format!("ORDER BY {}{order} LIMIT $2", self.key);
        let mut conditions = vec![format!("{} {sign} $1", self.key)];
        conditions.extend(self.conditions.iter().cloned());
        let (mut values, first) = (self.values.clone(), 3 + self.values.len());
        let ways = if self.narrow { Vec::new() } else { visible.ways(whose, first) };
        if ways.len() <= 1 || ways.len() > MOST_WAYS {
            let (condition, more) = match self.narrow {
                true => visible.sieve(whose, first),
                false => visible.condition(whose, first),
            };
            conditions.push(condition);
            values.extend(more);
            let sql = format!("{} WHERE {} {tail}", self.select, conditions.join(" AND "));
            return (sql, values);
        }
        let (key, table, conditions) = (self.key, self.table, conditions.join(" AND "));
        let page = |way: &Way| {
            let may = &way.condition;
            format!(
                "SELECT {key} FROM (SELECT {key} FROM {table} WHERE {conditions} AND {may} {tail}) \
                 AS way"
            )
        };
        let pages: Vec<String> = ways.iter().map(page).collect();
        values.extend(ways.into_iter().flat_map(|way| way.values));
        // What is seen in two ways is one row of the page.
        let sql = format!(
            "{} WHERE {key} IN (SELECT DISTINCT {key} FROM ({}) AS found {tail}) {tail}",
            self.select,
            pages.join(" UNION ALL ")
        );
        (sql, values)
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
        let first = if list.newest_first { BEHIND_ALL } else { "" };
        let after = page.after.clone().unwrap_or_else(|| first.to_owned());
        self.page_after(list, (visible, whose), |query| query.bind(after), page.limit).await
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
