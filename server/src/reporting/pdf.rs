//! A report as pages for printers: A4, landscape, with the head of the table on each.
//!
//! Columns are as wide as their widest value, within the page; longer texts are cut with an
//! ellipsis. The font (DejaVu Sans) is part of the program, and of the file only the letters that
//! are used.

use krilla::Document;
use krilla::color::rgb;
use krilla::geom::{PathBuilder, Point};
use krilla::metadata::Metadata;
use krilla::num::NormalizedF32;
use krilla::page::PageSettings;
use krilla::paint::{Fill, Stroke};
use krilla::surface::Surface;
use krilla::text::{Font, TextDirection};
use skrifa::instance::{LocationRef, Size};
use skrifa::{FontRef, MetadataProvider};

use super::table::{Cell, Table};

const FONT: &[u8] = include_bytes!("../../assets/DejaVuSans.ttf");
/// A4 in points, landscape.
const PAGE: (f32, f32) = (841.89, 595.28);
const MARGIN: f32 = 36.0;
/// Sizes of letters, in points.
const TITLE: f32 = 15.0;
const ABOUT: f32 = 8.5;
const CELL: f32 = 7.5;
/// From one line to the next.
const LINE: f32 = 12.5;
/// Between columns.
const GAP: f32 = 10.0;
/// The narrowest that a column becomes when there are too many.
const NARROWEST: f32 = 30.0;

/// Writes it; an error is one line for people.
pub(crate) fn write(table: &Table) -> Result<Vec<u8>, String> {
    let font = Font::new(FONT.into(), 0).ok_or("the font of reports is damaged")?;
    let measure = Measure::new()?;
    let mut document = Document::new();
    document.set_metadata(Metadata::new().title(table.title.clone()).language("en".into()));
    let layout = Layout::of(table, &measure);
    let pages = layout.pages(table);
    let total = pages.len();
    for (number, rows) in pages.iter().enumerate() {
        let settings = PageSettings::from_wh(PAGE.0, PAGE.1).ok_or("a page has no size")?;
        let mut page = document.start_page_with(settings);
        let mut sheet = Sheet { surface: page.surface(), font: &font, measure: &measure };
        let mut y = MARGIN + TITLE;
        if number == 0 {
            y = sheet.begin(table);
        }
        sheet.rows(table, &layout, rows, y);
        let foot = format!("{} of {total}", number + 1);
        let x = PAGE.0 - MARGIN - measure.width(&foot, CELL);
        sheet.text(&foot, (x, PAGE.1 - MARGIN / 2.0), CELL, GREY);
        drop(sheet);
        page.finish();
    }
    document.finish().map_err(|error| format!("a report cannot be written as PDF: {error:?}"))
}

const BLACK: (u8, u8, u8) = (0x1b, 0x1f, 0x24);
const GREY: (u8, u8, u8) = (0x57, 0x60, 0x6a);
const PALE: (u8, u8, u8) = (0xd0, 0xd7, 0xde);

/// How wide texts are.
struct Measure<'a> {
    font: FontRef<'a>,
}

impl Measure<'_> {
    fn new() -> Result<Self, String> {
        let font = FontRef::new(FONT).map_err(|error| format!("the font of reports: {error}"))?;
        Ok(Self { font })
    }

    /// In points, at a size in points.
    fn width(&self, text: &str, size: f32) -> f32 {
        let letters = self.font.charmap();
        let metrics = self.font.glyph_metrics(Size::new(size), LocationRef::default());
        let wide = |letter: char| {
            let glyph = letters.map(letter).unwrap_or_default();
            metrics.advance_width(glyph).unwrap_or(size)
        };
        text.chars().map(wide).sum()
    }

    /// As much of a text as fits.
    fn fit(&self, text: &str, size: f32, width: f32) -> String {
        if self.width(text, size) <= width {
            return text.to_owned();
        }
        let room = width - self.width("…", size);
        let letters = self.font.charmap();
        let metrics = self.font.glyph_metrics(Size::new(size), LocationRef::default());
        let mut used = 0.0;
        let fits = |letter: &char| {
            let glyph = letters.map(*letter).unwrap_or_default();
            used += metrics.advance_width(glyph).unwrap_or(size);
            used <= room
        };
        let mut cut: String = text.chars().take_while(fits).collect();
        cut.push('…');
        cut
    }
}

/// Where columns stand, and how many rows a page has.
struct Layout {
    /// Left edge and width of each.
    columns: Vec<(f32, f32)>,
    at_right: Vec<bool>,
}

impl Layout {
    fn of(table: &Table, measure: &Measure<'_>) -> Self {
        let mut widths: Vec<f32> =
            table.columns.iter().map(|name| measure.width(name, CELL)).collect();
        let mut at_right = vec![false; widths.len()];
        for row in &table.rows {
            for (at, cell) in row.iter().enumerate().take(widths.len()) {
                widths[at] = widths[at].max(measure.width(&one_line(cell), CELL));
                at_right[at] |= cell.is_number();
            }
        }
        let room = PAGE.0 - 2.0 * MARGIN - GAP * widths.len().saturating_sub(1) as f32;
        shrink(&mut widths, room);
        let mut x = MARGIN;
        let columns = widths.into_iter().map(|width| {
            let left = x;
            x += width + GAP;
            (left, width)
        });
        Self { columns: columns.collect(), at_right }
    }

    /// The rows of each page; there is always one page.
    fn pages<'t>(&self, table: &'t Table) -> Vec<&'t [Vec<Cell>]> {
        let lines = |from: f32| ((PAGE.1 - MARGIN - from) / LINE) as usize;
        let first = lines(body_of_first(table) + LINE).max(1);
        let other = lines(MARGIN + TITLE + LINE).max(1);
        let (begin, rest) = table.rows.split_at(table.rows.len().min(first));
        std::iter::once(begin).chain(rest.chunks(other)).collect()
    }
}

/// Takes from the widest columns until all fit.
fn shrink(widths: &mut [f32], room: f32) {
    while widths.iter().sum::<f32>() > room {
        let over = widths.iter().sum::<f32>() - room;
        let widest = widths.iter().copied().fold(0.0, f32::max);
        if widest <= NARROWEST {
            return;
        }
        let next = widths.iter().copied().filter(|width| *width < widest).fold(0.0, f32::max);
        let many = widths.iter().filter(|width| **width >= widest).count() as f32;
        let new = (widest - over / many).max(next).max(NARROWEST);
        widths.iter_mut().filter(|width| **width >= widest).for_each(|width| *width = new);
    }
}

/// Where the table begins on the first page.
fn body_of_first(table: &Table) -> f32 {
    MARGIN + TITLE + LINE * (table.about.len() as f32 + 2.5)
}

/// Texts of people may have lines; a row has one.
fn one_line(cell: &Cell) -> String {
    cell.shown().replace(char::is_control, " ")
}

/// What is drawn on.
struct Sheet<'s, 'f> {
    surface: Surface<'s>,
    font: &'f Font,
    measure: &'f Measure<'f>,
}

impl Sheet<'_, '_> {
    fn text(&mut self, text: &str, (x, y): (f32, f32), size: f32, color: (u8, u8, u8)) {
        let paint = rgb::Color::new(color.0, color.1, color.2).into();
        let fill = Fill { paint, opacity: NormalizedF32::ONE, rule: Default::default() };
        self.surface.set_stroke(None);
        self.surface.set_fill(Some(fill));
        let (at, font) = (Point::from_xy(x, y), self.font.clone());
        self.surface.draw_text(at, font, size, text, false, TextDirection::Auto);
    }

    fn rule(&mut self, y: f32, until: f32, color: (u8, u8, u8)) {
        let mut line = PathBuilder::new();
        line.move_to(MARGIN, y);
        line.line_to(until, y);
        let Some(line) = line.finish() else { return };
        let paint = rgb::Color::new(color.0, color.1, color.2).into();
        self.surface.set_fill(None);
        self.surface.set_stroke(Some(Stroke { paint, width: 0.5, ..Stroke::default() }));
        self.surface.draw_path(&line);
    }

    /// The title and what stands before the table; returns where that begins.
    fn begin(&mut self, table: &Table) -> f32 {
        let wide = PAGE.0 - 2.0 * MARGIN;
        let title = self.measure.fit(&table.title.replace(char::is_control, " "), TITLE, wide);
        self.text(&title, (MARGIN, MARGIN + TITLE), TITLE, BLACK);
        let mut y = MARGIN + TITLE + LINE * 1.5;
        for line in &table.about {
            let line = self.measure.fit(&line.replace(char::is_control, " "), ABOUT, wide);
            self.text(&line, (MARGIN, y), ABOUT, GREY);
            y += LINE;
        }
        if table.rows.is_empty() {
            self.text("There is nothing to tell.", (MARGIN, y + LINE), ABOUT, BLACK);
        }
        body_of_first(table)
    }

    fn rows(&mut self, table: &Table, layout: &Layout, rows: &[Vec<Cell>], top: f32) {
        if rows.is_empty() {
            return;
        }
        let head = table.columns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        self.line(&head, layout, top, GREY);
        let until = layout.columns.last().map_or(MARGIN, |(left, width)| left + width);
        self.rule(top + LINE * 0.3, until, GREY);
        let mut y = top;
        for row in rows {
            y += LINE;
            let texts: Vec<String> = row.iter().map(one_line).collect();
            self.line(&texts, layout, y, BLACK);
            self.rule(y + LINE * 0.3, until, PALE);
        }
    }

    fn line(&mut self, texts: &[String], layout: &Layout, y: f32, color: (u8, u8, u8)) {
        for ((text, (left, width)), at_right) in
            texts.iter().zip(&layout.columns).zip(&layout.at_right)
        {
            let text = self.measure.fit(text, CELL, *width);
            let free = if *at_right { width - self.measure.width(&text, CELL) } else { 0.0 };
            self.text(&text, (left + free, y), CELL, color);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit_on_the_page_and_the_widest_give_first() {
        let mut widths = vec![400.0, 100.0, 300.0];
        shrink(&mut widths, 500.0);
        assert_eq!(widths, [200.0, 100.0, 200.0]);
        let mut few = vec![10.0, 20.0];
        shrink(&mut few, 500.0);
        assert_eq!(few, [10.0, 20.0]);
        let mut many = vec![50.0; 100];
        shrink(&mut many, 500.0);
        assert!(many.iter().all(|width| (*width - NARROWEST).abs() < 0.01));
    }

    #[test]
    fn every_row_is_on_some_page_and_every_letter_is_taken() {
        let hostile = "naïve Ωmega \u{202e}\u{0}\n\u{1f600} <b>".repeat(20);
        let row = |at: u64| vec![Cell::Text(format!("{at} {hostile}")), Cell::Bytes(at)];
        for many in [0, 1, 39, 40, 41, 500] {
            let table = Table {
                title: hostile.clone(),
                about: vec![hostile.clone()],
                columns: vec!["Instance", "Stored"],
                rows: (0..many).map(row).collect(),
            };
            let layout = Layout::of(&table, &Measure::new().unwrap());
            let pages = layout.pages(&table);
            assert_eq!(pages.iter().map(|rows| rows.len() as u64).sum::<u64>(), many);
            let file = write(&table).unwrap();
            assert!(file.starts_with(b"%PDF-"));
        }
    }
}
