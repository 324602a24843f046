//! The executable from outside, over a repository in a folder.

mod commands;
mod mistakes;
mod support;
