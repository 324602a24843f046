//! Files that list changed extents.
//!
//! Either what `sluice diff --json` writes, an array of `{"offset", "length"}` in bytes, or what
//! `nbdinfo --map=qemu:dirty-bitmap:NAME --json` writes, which also lists clean extents and says
//! of each what it is.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::error::advise;

/// A list is not longer than this: a bitmap of 64 TiB at 64 KiB with every other bit set.
const LARGEST: u64 = 1 << 30;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Extent {
    offset: u64,
    length: u64,
    #[serde(default, rename = "type")]
    _flags: Option<u64>,
    #[serde(default)]
    description: Option<String>,
}

/// Reads the list.
pub(crate) fn read(path: &Path) -> Result<Vec<Range<u64>>> {
    let context = || format!("cannot read changed extents from {}", path.display());
    let file = std::fs::File::open(path).with_context(context)?;
    if file.metadata().with_context(context)?.len() > LARGEST {
        let text = format!("{} is too large for a list of extents", path.display());
        return Err(advise("source", text, "leave out --changed to read the whole image"));
    }
    let extents: Vec<Extent> =
        serde_json::from_reader(std::io::BufReader::new(file)).with_context(context)?;
    ranges(extents).with_context(context)
}

fn ranges(extents: Vec<Extent>) -> Result<Vec<Range<u64>>> {
    let mut ranges = Vec::with_capacity(extents.len());
    for extent in extents {
        match extent.description.as_deref() {
            None | Some("dirty") => {}
            Some("clean") => continue,
            Some(other) => {
                // A list of something else, such as allocation, must not pass for changes.
                return Err(advise(
                    "source",
                    format!("it describes an extent as {other:?}, not as dirty or clean"),
                    "give a list of what changed since the last restore point",
                ));
            }
        }
        let end = extent.offset.checked_add(extent.length).ok_or_else(|| {
            advise("source", "an extent ends beyond 16 EiB", "offsets and lengths are in bytes")
        })?;
        if extent.length > 0 {
            ranges.push(extent.offset..end);
        }
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Range<u64>>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.json");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn lists_of_extents_and_maps_of_bitmaps_are_read() {
        let list = r#"[{"offset": 0, "length": 512}, {"offset": 4096, "length": 0}]"#;
        assert_eq!(parse(list).unwrap(), [Range { start: 0, end: 512 }]);
        let map = r#"[
            {"offset": 0, "length": 65536, "type": 0, "description": "clean"},
            {"offset": 65536, "length": 65536, "type": 1, "description": "dirty"}]"#;
        assert_eq!(parse(map).unwrap(), [Range { start: 65536, end: 131_072 }]);
        assert!(parse("[]").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_list_of_changes_is_refused() {
        for bad in [
            "",
            "{}",
            r#"[{"offset": -1, "length": 1}]"#,
            r#"[{"offset": 0}]"#,
            r#"[{"start": 0, "length": 5}]"#,
            r#"[{"offset": 0, "length": 5, "type": 3, "description": "hole,zero"}]"#,
            r#"[{"offset": 18446744073709551615, "length": 5}]"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
