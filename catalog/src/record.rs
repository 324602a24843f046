//! Records: what has a name, a project and a document.

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, document, number, query, text_of};
use crate::error::{CatalogError, ErrorKind, Result};
use crate::found::Found;
use crate::id::{Name, ProjectId};
use crate::listed::Listed;
use crate::model::grant::Resource;
use crate::visible::{Visible, Whose};

/// A kind of record.
pub trait Kind: Serialize + DeserializeOwned + Send + Sync {
    /// What names it.
    type Id: Name;
    /// Its table.
    const TABLE: &'static str;
    /// Its word in messages and in the audit log.
    const WORD: &'static str;
    /// Whether those that belong to no project are seen by projects: all, or those that they name.
    /// Their tables have a column `visible_to`.
    const SHARED: bool;
    /// Whether one may get another name. What repositories know by its name may not: its backups
    /// would stay under the old one, for whoever gets that next.
    const RENAMES: bool = true;

    /// Whether this can be its name.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with what a name is.
    fn check_name(name: &str) -> Result<()> {
        check_name(Self::WORD, name)
    }

    /// The project that a record of this id is itself; nothing for all other kinds.
    fn is_project(_id: Self::Id) -> Option<ProjectId> {
        None
    }

    /// What roles can be given on; nothing for kinds of which no single record can be granted.
    fn resource(id: Self::Id) -> Option<Resource> {
        Resource::from_parts(Self::WORD, &id.to_string()).ok().flatten()
    }

    /// The projects that see one that is shared; nothing where all do.
    fn visible_to(&self) -> Option<&BTreeSet<ProjectId>> {
        None
    }

    /// Whether the document makes sense by itself.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with what is wrong.
    fn check(&self) -> Result<()>;
}

/// A record of some kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Record<K: Kind> {
    /// Its id.
    pub id: K::Id,
    /// The project it belongs to; none for what belongs to the system.
    pub project: Option<ProjectId>,
    /// The name of that project. Whoever may know of the record is told it, also without a role in
    /// the project: names of records are unique only together with it.
    pub project_name: Option<String>,
    /// Its name, unique among its kind in its project.
    pub name: String,
    /// Grows with every change.
    pub revision: u64,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it was changed last, in milliseconds since 1970.
    pub updated_ms: u64,
    /// What it says.
    pub body: K,
}

impl<K: Kind> Record<K> {
    /// Whether what belongs to a project may use it: it is the project's own, or the system's and
    /// visible to the project. What belongs to the system uses all of the system's.
    pub fn usable_in(&self, project: Option<ProjectId>) -> bool {
        let shown = |to: &BTreeSet<ProjectId>| project.is_none_or(|own| to.contains(&own));
        match self.project {
            Some(_) => self.project == project,
            None => self.body.visible_to().is_none_or(shown),
        }
    }

    /// One that is nowhere: to see what would be if there were one that says this.
    pub fn draft(project: Option<ProjectId>, body: K) -> Self {
        let (id, name) = (K::Id::new(0), String::new());
        let (project_name, revision, created_ms, updated_ms) = (None, 0, 0, 0);
        Self { id, project, project_name, name, revision, created_ms, updated_ms, body }
    }
}

/// A part of a list, of which not everything could be read.
pub struct Readable<K: Kind> {
    /// What could.
    pub records: Vec<Record<K>>,
    /// Id and name of what could not, and why.
    pub unreadable: Vec<(String, String, CatalogError)>,
    /// The last of both: where the next part begins; nothing behind the end.
    pub last: Option<String>,
}

impl<K: Kind> std::fmt::Debug for Readable<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { records, unreadable, last } = self;
        let mut told = f.debug_struct("Readable");
        told.field("records", &records.len()).field("unreadable", unreadable);
        told.field("last", last).finish()
    }
}

/// A part of a list, in the order in which records were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Begin after this id.
    pub after: Option<String>,
    /// Return so many at most.
    pub limit: u32,
}

impl Page {
    /// The most that one page holds.
    pub const LARGEST: u32 = 1000;
}

impl Default for Page {
    fn default() -> Self {
        Self { after: None, limit: 100 }
    }
}

/// Names are short, printable, and begin with something that is seen.
pub(crate) fn check_name(word: &str, name: &str) -> Result<()> {
    let fits = !name.is_empty()
        && name.len() <= 128
        && name.trim() == name
        && !name.chars().any(char::is_control);
    let text = format!("the name of a {word} has 1 to 128 bytes, and no blanks around it");
    if fits { Ok(()) } else { Err(CatalogError::invalid(text)) }
}

/// Projects as the column `visible_to` has them.
fn listed(projects: Option<&BTreeSet<ProjectId>>) -> String {
    let Some(projects) = projects else { return String::new() };
    projects.iter().fold(",".to_owned(), |text, project| format!("{text}{project},"))
}

const COLUMNS: &str = "id, project_id, name, revision, created_ms, updated_ms, body";
/// Records that are named in one statement.
const AT_ONCE: usize = 500;

impl<K: Kind> Record<K> {
    /// What is read of each: its columns, and the name of its project.
    fn select() -> String {
        let table = K::TABLE;
        format!(
            "SELECT {COLUMNS}, (SELECT owner.name FROM projects owner \
             WHERE owner.id = {table}.project_id) AS project_name FROM {table}"
        )
    }

    /// A list of them, oldest first.
    pub(crate) fn listed() -> Listed {
        Listed::oldest(K::TABLE, COLUMNS).reading(Self::select())
    }

    pub(crate) fn read(row: &AnyRow) -> Result<Self> {
        Ok(Self {
            id: row.id("id")?,
            project: row.maybe_id("project_id")?,
            project_name: row.maybe_text("project_name")?,
            name: row.text("name")?,
            revision: row.count("revision")?,
            created_ms: row.count("created_ms")?,
            updated_ms: row.count("updated_ms")?,
            body: row.json("body")?,
        })
    }
}

impl Tx {
    /// Adds a record.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it makes no sense, [`ErrorKind::Conflict`] when the name is
    /// taken.
    pub async fn insert<K: Kind>(
        &mut self,
        project: Option<ProjectId>,
        name: &str,
        body: K,
        now_ms: u64,
    ) -> Result<Record<K>> {
        K::check_name(name)?;
        body.check()?;
        if let Some(project) = project {
            self.hold_project(project).await?;
        }
        let id = K::Id::new(now_ms);
        let (column, value) = if K::SHARED { (", visible_to", ", $6") } else { ("", "") };
        let sql = format!(
            "INSERT INTO {} ({COLUMNS}{column}) VALUES ($1, $2, $3, 1, $4, $4, $5{value})",
            K::TABLE
        );
        let mut insert = query(sql)
            .bind(id.to_string())
            .bind(text_of(project))
            .bind(name.to_owned())
            .bind(number(now_ms))
            .bind(document(&body));
        if K::SHARED {
            insert = insert.bind(listed(body.visible_to()));
        }
        self.run(insert).await.map_err(|error| match error.kind() {
            ErrorKind::Conflict => {
                let text = format!("there is a {} {name} already", K::WORD);
                CatalogError::new(ErrorKind::Conflict, text).with_source(error)
            }
            _ => error,
        })?;
        self.changed(K::TABLE).await?;
        let (created_ms, updated_ms) = (now_ms, now_ms);
        let (name, project_name) = (name.to_owned(), self.name_of_project(project).await?);
        let revision = 1;
        Ok(Record { id, project, project_name, name, revision, created_ms, updated_ms, body })
    }

    /// Keeps a project from being removed until this transaction ends, and waits for whoever
    /// removes it: a record that is added to it, and its removal, come one after the other.
    async fn hold_project(&mut self, id: ProjectId) -> Result<()> {
        let sql = "UPDATE projects SET revision = revision WHERE id = $1";
        match self.run(sqlx::query(sql).bind(id.to_string())).await? {
            0 => Err(CatalogError::not_found(format_args!("project {id}"))),
            _ => Ok(()),
        }
    }

    async fn name_of_project(&mut self, project: Option<ProjectId>) -> Result<Option<String>> {
        let Some(project) = project else { return Ok(None) };
        let select = sqlx::query("SELECT name FROM projects WHERE id = $1");
        let row = self.maybe(select.bind(project.to_string())).await?;
        row.map(|row| row.text("name")).transpose()
    }

    /// The record of that id, if the caller may know of it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none, or the caller may not know.
    pub async fn get<K: Kind>(&mut self, id: K::Id, visible: &Visible) -> Result<Record<K>> {
        let sql = format!("{} WHERE id = $1", Record::<K>::select());
        let row = self.maybe(query(sql).bind(id.to_string())).await?;
        let record = row.map(|row| Record::<K>::read(&row)).transpose()?;
        let seen = |record: &Record<K>| {
            visible.sees(K::is_project(id).or(record.project), K::resource(id))
                || (K::SHARED
                    && record.project.is_none()
                    && visible.has_shared(record.body.visible_to()))
        };
        record.filter(seen).ok_or_else(|| CatalogError::not_found(format_args!("{} {id}", K::WORD)))
    }

    /// The records of these ids that are there, in no order, whoever may know of them. Those that
    /// cannot be read are apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn get_many<K: Kind>(&mut self, ids: &[K::Id]) -> Result<Found<Record<K>>> {
        let mut rows = Vec::with_capacity(ids.len());
        for part in ids.chunks(AT_ONCE) {
            let places: Vec<String> = (1..=part.len()).map(|at| format!("${at}")).collect();
            let sql = format!("{} WHERE id IN ({})", Record::<K>::select(), places.join(", "));
            let select = part.iter().fold(query(sql), |select, id| select.bind(id.to_string()));
            rows.extend(self.all(select).await?);
        }
        Found::apart(&rows, Record::read)
    }

    /// The record of that name in a project.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn find<K: Kind>(
        &mut self,
        project: Option<ProjectId>,
        name: &str,
    ) -> Result<Option<Record<K>>> {
        let sql = format!("{} WHERE project_id = $1 AND name = $2", Record::<K>::select());
        let row = self.maybe(query(sql).bind(text_of(project)).bind(name.to_owned())).await?;
        row.map(|row| Record::read(&row)).transpose()
    }

    /// The records that the caller may know of, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list<K: Kind>(
        &mut self,
        visible: &Visible,
        page: &Page,
    ) -> Result<Vec<Record<K>>> {
        let rows = self.rows_of::<K>(visible, K::SHARED.then_some("visible_to"), page).await?;
        rows.iter().map(Record::read).collect()
    }

    async fn rows_of<K: Kind>(
        &mut self,
        visible: &Visible,
        shared: Option<&'static str>,
        page: &Page,
    ) -> Result<Vec<AnyRow>> {
        self.records_of::<K>(Record::<K>::listed(), visible, shared, page).await
    }

    /// A page of a list of records, with what the system shares as a column or expression tells it.
    pub(crate) async fn records_of<K: Kind>(
        &mut self,
        list: Listed,
        visible: &Visible,
        shared: Option<&'static str>,
        page: &Page,
    ) -> Result<Vec<AnyRow>> {
        let own = [(K::WORD, "id")];
        let columns = match K::TABLE {
            "projects" => Whose { project: "id", shared: None, resources: &[] },
            _ => Whose { project: "project_id", shared, resources: &own },
        };
        self.page(list, (visible, &columns), page).await
    }

    /// A part of a list as [`Tx::list`] tells it, with those that cannot be read apart: what was
    /// damaged, or written by a release that knows more. Whoever does something for each record
    /// does it for the others.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list_readable<K: Kind>(
        &mut self,
        visible: &Visible,
        page: &Page,
    ) -> Result<Readable<K>> {
        self.list_readable_with(visible, K::SHARED.then_some("visible_to"), page).await
    }

    /// The same, with what the system shares as another column or expression tells it.
    pub(crate) async fn list_readable_with<K: Kind>(
        &mut self,
        visible: &Visible,
        shared: Option<&'static str>,
        page: &Page,
    ) -> Result<Readable<K>> {
        let rows = self.rows_of::<K>(visible, shared, page).await?;
        let last = rows.last().map(|row| row.text("id")).transpose()?;
        let mut part = Readable { records: Vec::new(), unreadable: Vec::new(), last };
        for row in rows {
            match Record::read(&row) {
                Ok(record) => part.records.push(record),
                Err(error) => part.unreadable.push((row.text("id")?, row.text("name")?, error)),
            }
        }
        Ok(part)
    }

    /// A text that differs whenever any record of a kind was made, changed or removed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn changes_of<K: Kind>(&mut self) -> Result<String> {
        let sql = format!(
            "SELECT COUNT(*) AS many, CAST(COALESCE(SUM(revision), 0) AS BIGINT) AS all_of, \
             COALESCE(MAX(id), '') AS newest FROM {}",
            K::TABLE
        );
        let row = self.maybe(query(sql)).await?;
        row.map_or(Ok(String::new()), |row| {
            let (many, all) = (row.count("many")?, row.count("all_of")?);
            Ok(format!("{many}/{all}/{}", row.text("newest")?))
        })
    }

    /// Stores a changed name or body. `record.revision` is the one the change is based on; it
    /// grows.
    ///
    /// # Errors
    /// [`ErrorKind::Stale`] when somebody else has changed it meanwhile, and those of
    /// [`Tx::insert`].
    pub async fn update<K: Kind>(&mut self, record: &mut Record<K>, now_ms: u64) -> Result<()> {
        K::check_name(&record.name)?;
        record.body.check()?;
        if !K::RENAMES {
            let sql = format!("SELECT name FROM {} WHERE id = $1", K::TABLE);
            let known = self.maybe(query(sql).bind(record.id.to_string())).await?;
            if known.is_some_and(|row| row.text("name").is_ok_and(|name| name != record.name)) {
                let text = format!(
                    "a {} keeps its name, by which repositories know its backups; make a new one",
                    K::WORD
                );
                return Err(CatalogError::invalid(text));
            }
        }
        let set = if K::SHARED { ", visible_to = $6" } else { "" };
        let sql = format!(
            "UPDATE {} SET name = $1, body = $2, updated_ms = $3, revision = revision + 1{set} \
             WHERE id = $4 AND revision = $5",
            K::TABLE
        );
        let mut update = query(sql)
            .bind(record.name.clone())
            .bind(document(&record.body))
            .bind(number(now_ms))
            .bind(record.id.to_string())
            .bind(number(record.revision));
        if K::SHARED {
            update = update.bind(listed(record.body.visible_to()));
        }
        if self.run(update).await? == 0 {
            let text = format!("the {} was changed by somebody else", K::WORD);
            return Err(CatalogError::new(ErrorKind::Stale, text));
        }
        self.changed(K::TABLE).await?;
        record.revision += 1;
        record.updated_ms = now_ms;
        Ok(())
    }

    /// Removes a record, and the roles that were given on it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none, [`ErrorKind::Conflict`] when others refer to
    /// it.
    pub async fn delete<K: Kind>(&mut self, id: K::Id) -> Result<()> {
        let sql = format!("DELETE FROM {} WHERE id = $1", K::TABLE);
        if self.run(query(sql).bind(id.to_string())).await? == 0 {
            return Err(CatalogError::not_found(format_args!("{} {id}", K::WORD)));
        }
        if let Some(resource) = K::resource(id) {
            self.forget_grants_on(resource).await?;
        }
        if K::TABLE == "destinations" {
            // No restore point and no collection there will ever end these.
            let sql = "DELETE FROM pending WHERE destination_id = $1";
            self.run(sqlx::query(sql).bind(id.to_string())).await?;
        }
        self.changed(K::TABLE).await
    }
}
