//! Reports: what was promised and kept, what is to come, and documents of all of that.
//!
//! ```text
//!   catalog ──► sla, forecast: numbers ─┐
//!   usage, protection, missed ──────────┼─► table ──► csv, html, pdf ──► answers, mails
//! ```
//!
//! A report is numbers first, which programs read as JSON. People get a table of it, made once and
//! written in several forms, so that all say the same.

mod csv;
pub(crate) mod document;
pub(crate) mod forecast;
mod html;
mod pdf;
pub(crate) mod scheduled;
pub(crate) mod sla;
mod table;

pub(crate) use table::Format;
