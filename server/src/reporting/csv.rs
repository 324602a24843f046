//! A report as comma-separated values (RFC 4180), for spreadsheets and scripts.

use super::table::{Cell, Table};

/// The rows, under the names of the columns.
pub(crate) fn write(table: &Table) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut write = |row: Vec<String>| writer.write_record(row).is_ok();
    let head = write(table.columns.iter().map(|name| (*name).to_owned()).collect());
    let rows = table.rows.iter().all(|row| write(row.iter().map(value).collect()));
    debug_assert!(head && rows, "memory takes everything, and rows are of one length");
    writer.into_inner().unwrap_or_default()
}

/// What a spreadsheet would take for a formula is text, if people wrote it.
fn value(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => {
            format!("'{text}")
        }
        other => other.raw(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_arrive_as_they_are_and_nothing_is_a_formula() {
        let texts = ["plain", "a,b", "say \"no\"", "two\nlines", "=1+1", "@x"];
        let rows = texts.map(|text| vec![Cell::Text(text.into()), Cell::Bytes(2048)]);
        let columns = vec!["name", "stored"];
        let table = Table { title: "t".into(), about: Vec::new(), columns, rows: rows.to_vec() };
        let text = write(&table);
        let mut reader = csv::Reader::from_reader(text.as_slice());
        assert_eq!(reader.headers().unwrap(), vec!["name", "stored"]);
        let read: Vec<String> =
            reader.records().map(|row| row.unwrap().iter().collect::<Vec<_>>().join("|")).collect();
        let wanted = [
            "plain|2048",
            "a,b|2048",
            "say \"no\"|2048",
            "two\nlines|2048",
            "'=1+1|2048",
            "'@x|2048",
        ];
        assert_eq!(read, wanted);
    }
}
