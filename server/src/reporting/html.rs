//! A report as a page for browsers and mails. It fetches nothing, and runs nothing.

use maud::{DOCTYPE, html};

use super::table::Table;

/// Mail readers drop style sheets of their own choice; without any it is a plain table.
const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2em;color:#1b1f24}\
    h1{font-size:1.4em;margin:0 0 .5em}p{margin:.2em 0;color:#57606a}\
    table{border-collapse:collapse;margin-top:1.2em}\
    th,td{padding:.3em .8em;border-bottom:1px solid #d0d7de;text-align:left;vertical-align:top}\
    th{border-bottom:2px solid #57606a}.n{text-align:right;font-variant-numeric:tabular-nums}\
    @media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}p{color:#9198a1}}";

/// The whole page.
pub(crate) fn write(table: &Table) -> Vec<u8> {
    let numbers: Vec<bool> = (0..table.columns.len())
        .map(|at| table.rows.iter().any(|row| row.get(at).is_some_and(|cell| cell.is_number())))
        .collect();
    let class = |at: usize| numbers.get(at).copied().unwrap_or(false).then_some("n");
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { (table.title) }
                style { (maud::PreEscaped(STYLE)) }
            }
            body {
                h1 { (table.title) }
                @for line in &table.about { p { (line) } }
                @if table.rows.is_empty() {
                    p { "There is nothing to tell." }
                } @else {
                    table {
                        thead { tr {
                            @for (at, name) in table.columns.iter().enumerate() {
                                th class=[class(at)] scope="col" { (name) }
                            }
                        } }
                        tbody {
                            @for row in &table.rows { tr {
                                @for (at, cell) in row.iter().enumerate() {
                                    td class=[class(at)] { (cell.shown()) }
                                }
                            } }
                        }
                    }
                }
            }
        }
    };
    page.into_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reporting::table::Cell;

    #[test]
    fn names_are_never_markup() {
        let hostile = "<script>alert('x')</script>&\"";
        let table = Table {
            title: hostile.into(),
            about: vec![hostile.into()],
            columns: vec!["Instance", "Stored"],
            rows: vec![vec![Cell::Text(hostile.into()), Cell::Bytes(1536)]],
        };
        let page = String::from_utf8(write(&table)).unwrap();
        assert!(!page.contains("<script"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;").count(), 4, "{page}");
        assert!(page.contains("<td class=\"n\">1.5 KiB</td>"), "{page}");
        let empty = Table { rows: Vec::new(), ..table };
        assert!(String::from_utf8(write(&empty)).unwrap().contains("nothing to tell"));
    }
}
