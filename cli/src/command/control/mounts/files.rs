//! Files of a mount, listed and downloaded through the server.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;
use sluice_node_api::{Client, Download};

use super::super::{show_list, word};
use super::path as mount;
use crate::context::Context;
use crate::error::{Exit, usage_error};
use crate::output::{self, local, note};

/// A text as it stands in a query.
fn in_query(text: &str) -> String {
    let mut own = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => own.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => own.push(char::from(byte)),
            byte => own.push_str(&format!("%{byte:02X}")),
        }
    }
    own
}

/// Lists what a folder holds.
pub(super) async fn list(
    context: &Context,
    client: &Client,
    id: &str,
    folder: &str,
) -> Result<Exit> {
    let (mut items, mut after) = (Vec::new(), String::new());
    loop {
        let asked = format!("{}/files?path={}{after}", mount(id), in_query(folder));
        let part: Value = client.get(&asked).await?;
        items.extend(part["items"].as_array().cloned().unwrap_or_default());
        match part["next"].as_str() {
            Some(next) => after = format!("&after={}", in_query(next)),
            None => break,
        }
    }
    let headings = ["KIND", ">SIZE", "CHANGED", "NAME"];
    show_list(context, &headings, &items, |entry| {
        let changed = local(entry["modified_ms"].as_u64().unwrap_or(0), &context.zone);
        let mut name = word(entry, "name");
        if let Some(target) = entry["target"].as_str() {
            name = format!("{name} -> {target}");
        }
        vec![word(entry, "kind"), entry["size"].to_string(), changed, name]
    })
}

/// Downloads a file. Where it is to go, there is all of it, or what was there before.
pub(super) async fn download(
    context: &Context,
    client: &Client,
    (id, path): (&str, &str),
    output: Option<&Path>,
) -> Result<Exit> {
    let to = match output {
        Some(to) => to.to_owned(),
        None => own_name(path)?,
    };
    let asked = format!("{}/content?path={}", mount(id), in_query(path));
    let mut download = client.open(&asked, &[]).await?;
    if to.as_os_str() == "-" {
        let mut out = std::io::stdout().lock();
        write(&mut download, &mut out).await?;
        return Ok(Exit::Done);
    }
    let failed = || format!("cannot write {}", to.display());
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(failed)?;
    let bytes = write(&mut download, file.as_file_mut()).await?;
    file.persist(&to).with_context(failed)?;
    if context.global.json {
        output::json(&serde_json::json!({"path": path, "output": to, "bytes": bytes}))?;
    } else if !context.global.quiet {
        note(format_args!("{}: {bytes} bytes", to.display()));
    }
    Ok(Exit::Done)
}

/// The name of a file in this folder that is called as its path ends.
fn own_name(path: &str) -> Result<PathBuf> {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if ["", ".", ".."].contains(&name) {
        return Err(usage_error("name the file to download, as it is listed"));
    }
    Ok(PathBuf::from(name))
}

async fn write(download: &mut Download, to: &mut impl Write) -> Result<u64> {
    let mut bytes = 0;
    while let Some(piece) = download.piece().await? {
        to.write_all(&piece).context("cannot write what was downloaded")?;
        bytes += piece.len() as u64;
    }
    to.flush().context("cannot write what was downloaded")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_can_be_asked_for_and_none_leads_out_of_this_folder() {
        assert_eq!(in_query("/a b%FF&x=1/é"), "/a%20b%25FF%26x%3D1/%C3%A9");
        assert_eq!(own_name("/shop.web/latest/root.raw").unwrap(), Path::new("root.raw"));
        assert!(["", "/", "a/..", "."].iter().all(|bad| own_name(bad).is_err()));
    }
}
