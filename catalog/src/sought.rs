//! Records that are sought: by project, by name, and by what they say.
//!
//! What a record says is a document. Those that cannot say what is sought are left out by the
//! database, by the text that such a document must have; the others are read and looked at. So no
//! kind needs columns for what it can be found by.

use serde::Serialize;

use crate::db::{Columns, Tx, document, text_of};
use crate::error::{CatalogError, Result};
use crate::found::{Found, Unreadable, escaped};
use crate::id::ProjectId;
use crate::record::{Kind, Page, Record};
use crate::visible::Visible;

/// Rows that are read in one go at least, where most may be left out.
const AT_ONCE: u32 = 200;
/// The longest text that a document is sought by, in bytes, as documents have it: no word that a
/// record is found by is as long, and SQLite refuses patterns of more than 50,000 bytes.
const LONGEST: usize = 4096;

/// Which records are sought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sought {
    /// Those of this project.
    pub project: Option<ProjectId>,
    /// Those with this name; `*` in it stands for anything, `?` for one character.
    pub name: Option<String>,
    /// Texts that their documents have.
    texts: Vec<String>,
}

impl Sought {
    /// Those of a project, with such a name.
    pub fn named(project: Option<ProjectId>, name: Option<String>) -> Self {
        Self { project, name, texts: Vec::new() }
    }

    /// Only those in which this value stands somewhere. Whether it stands where it is meant is for
    /// whoever seeks it to look at.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for what is longer than any word that
    /// records are found by.
    pub fn saying<T: Serialize>(self, value: Option<&T>) -> Result<Self> {
        self.having(value.map(document))
    }

    /// Only those in which a field has this value.
    ///
    /// # Errors
    /// Those of [`Sought::saying`].
    pub fn with<T: Serialize>(self, field: &str, value: Option<&T>) -> Result<Self> {
        self.having(value.map(|value| format!("\"{field}\":{}", document(value))))
    }

    fn having(mut self, text: Option<String>) -> Result<Self> {
        if text.as_ref().is_some_and(|text| text.len() > LONGEST) {
            return Err(CatalogError::invalid("what is sought is longer than any word of records"));
        }
        self.texts.extend(text);
        Ok(self)
    }

    fn is_pattern(name: &str) -> bool {
        name.contains(['*', '?'])
    }

    /// The name as a pattern of the database, which may let more through than it should.
    pub(crate) fn like(name: &str) -> String {
        escaped(name).replace('*', "%").replace('?', "_")
    }

    fn fits(&self, name: &str) -> bool {
        self.name.as_ref().is_none_or(|sought| match Self::is_pattern(sought) {
            true => wildmatch::WildMatch::new(sought).matches(name),
            false => sought == name,
        })
    }
}

impl Tx {
    /// The records that are sought, of those that the caller may know of, oldest first; `judge`
    /// says which of those that may be meant are. What cannot be read is told apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn seek<K: Kind>(
        &mut self,
        visible: &Visible,
        sought: &Sought,
        judge: impl Fn(&Record<K>) -> bool,
        page: &Page,
    ) -> Result<Found<Record<K>>> {
        let visible = visible.of_project(sought.project);
        let limit = page.limit.min(Page::LARGEST) as usize;
        let mut found = Found { items: Vec::new(), unreadable: Vec::new(), next: None };
        let mut part = page.clone();
        // The judge may let few through.
        part.limit = part.limit.max(AT_ONCE);
        loop {
            let rows = self.sought_rows::<K>(&visible, sought, &part).await?;
            let many = rows.len();
            for row in rows {
                let id = row.text("id")?;
                if found.items.len() + found.unreadable.len() == limit {
                    return Ok(found);
                }
                if sought.fits(&row.text("name")?) {
                    match Record::read(&row) {
                        Ok(record) if judge(&record) => found.items.push(record),
                        Ok(_) => {}
                        Err(error) => found.unreadable.push(Unreadable::of(&row, error)?),
                    }
                }
                found.next = Some(id);
            }
            if many < part.limit.min(Page::LARGEST) as usize {
                found.next = None;
                return Ok(found);
            }
            if found.items.len() + found.unreadable.len() == limit {
                return Ok(found);
            }
            part.after.clone_from(&found.next);
        }
    }

    async fn sought_rows<K: Kind>(
        &mut self,
        visible: &Visible,
        sought: &Sought,
        page: &Page,
    ) -> Result<Vec<sqlx::any::AnyRow>> {
        let mut list = Record::<K>::listed().with("project_id", text_of(sought.project));
        match &sought.name {
            Some(name) if Sought::is_pattern(name) => {
                list = list.holds("name LIKE ? ESCAPE '!'", Sought::like(name));
            }
            Some(name) => list = list.holds("name = ?", name.clone()),
            None => {}
        }
        for text in &sought.texts {
            list = list.holds("body LIKE ? ESCAPE '!'", format!("%{}%", escaped(text)));
        }
        self.records_of::<K>(list, visible, K::SHARED.then_some("visible_to"), page).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn names_are_found_by_patterns_in_which_only_two_signs_mean_something_else() {
        let named = |name: &str| Sought::named(None, Some(name.to_owned()));
        assert!(named("web-*").fits("web-1") && !named("web-*").fits("db-1"));
        assert!(named("web-?").fits("web-1") && !named("web-?").fits("web-10"));
        assert!(named("web_%").fits("web_%") && !named("web_%").fits("web-1"));
        assert!(named("Web").fits("Web") && !named("Web").fits("web"));
        assert_eq!(Sought::like("a_b%c!*?"), "a!_b!%c!!%_");
    }

    #[test]
    fn what_is_sought_is_sought_as_documents_have_it() {
        let sought = Sought::default().saying(Some(&"a \"b\"")).unwrap();
        let sought = sought.with("paused", Some(&true)).unwrap();
        assert_eq!(sought.texts, [r#""a \"b\"""#, r#""paused":true"#]);
        assert_eq!(Sought::default().saying(None::<&String>).unwrap(), Sought::default());
        // A sign that documents write with six.
        let long = "\u{1}".repeat(1000);
        let invalid = |sought: Result<Sought>| sought.unwrap_err().kind() == ErrorKind::Invalid;
        assert!(invalid(Sought::default().saying(Some(&long))));
        assert!(invalid(Sought::default().with("cluster", Some(&long))));
    }
}
