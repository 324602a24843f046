//! Tables for people: columns without lines, numbers to the right.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A table. Headings that start with `>` are of columns set to the right.
pub(crate) fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    for (at, heading) in headings.iter().enumerate() {
        if let Some(column) = table.column_mut(at) {
            column.set_padding((0, 2));
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    lines(&table)
}

/// Names and values, one a line.
pub(crate) fn fields(rows: Vec<(&str, String)>) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:<width$}  {}\n", printable(value))).collect()
}

/// Names may hold anything; a terminal must not act on it.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn lines(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = table(&["NAME", ">SIZE"], vec![row(["a", "1 B"]), row(["long", "10 MiB"])]);
        assert_eq!(text, "NAME    SIZE\na        1 B\nlong  10 MiB\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(fields(vec![("name", "a\u{1b}[2J".into())]), "name  a\u{fffd}[2J\n");
        assert!(!table(&["N"], vec![vec!["a\u{7}b".into()]]).contains('\u{7}'));
    }
}
