//! Dirty bitmaps of QEMU servers, which tell what changed since the last backup.

use std::ops::Range;

use sluice_nbd_wire::{Framing, QEMU_DIRTY_BITMAP, QEMU_STATE_DIRTY};
use tokio::time::{sleep, timeout};

use crate::connection::{Connection, open};
use crate::source::{CONNECT_PATIENCE, LONGEST_STATUS, PAUSES, REQUEST_PATIENCE, runs, status_of};
use crate::{NbdError, NbdUri};

/// Ranges in one bitmap. At 64 KiB a bit this is 2 TiB of every other block changed; 256 MiB of
/// memory.
const MOST_RANGES: usize = 16 << 20;

/// The names of the bitmaps an export offers.
pub(crate) async fn offered(uri: &NbdUri) -> Result<Vec<String>, NbdError> {
    let listing = async {
        let mut negotiation = open(uri).await?;
        let found = negotiation.list(&uri.export, QEMU_DIRTY_BITMAP).await?;
        let names = found.iter().filter_map(|name| name.strip_prefix(QEMU_DIRTY_BITMAP));
        Ok(names.map(str::to_owned).collect())
    };
    let after = CONNECT_PATIENCE;
    timeout(after, listing).await.map_err(|_| NbdError::Timeout { after })?
}

/// The ranges that bitmap `name` marks in an export of `size` bytes.
pub(crate) async fn dirty(
    uri: &NbdUri,
    size: u64,
    name: &str,
) -> Result<Vec<Range<u64>>, NbdError> {
    let mut walk = Walk { at: 0, ranges: vec![] };
    let mut pauses = PAUSES.iter();
    loop {
        let before = walk.at;
        let Err(error) = walk.go_on(uri, size, name).await else { return Ok(walk.ranges) };
        if walk.at > before {
            pauses = PAUSES.iter();
        }
        match pauses.next() {
            Some(pause) if error.is_retryable() => {
                tracing::warn!(server = %uri.target, "{error}; trying again");
                sleep(*pause).await;
            }
            _ => return Err(error),
        }
    }
}

/// How far a bitmap was read, across connections.
struct Walk {
    at: u64,
    ranges: Vec<Range<u64>>,
}

impl Walk {
    /// Reads on to the end over a connection of its own.
    async fn go_on(&mut self, uri: &NbdUri, size: u64, name: &str) -> Result<(), NbdError> {
        let context = format!("{QEMU_DIRTY_BITMAP}{name}");
        let connection = establish(uri, name, &context).await?;
        let now = connection.agreement.size;
        if now != size {
            return Err(NbdError::SizeChanged { before: size, now });
        }
        let longest = match connection.agreement.framing {
            Framing::Extended => u64::MAX,
            _ => LONGEST_STATUS,
        };
        let id = connection.agreement.context(&context);
        while self.at < size {
            let range = self.at..size.min(self.at.saturating_add(longest));
            let answer = connection.ask(status_of(&range), REQUEST_PATIENCE).await?;
            let before = self.at;
            for (run, flags) in runs(answer, id, &range, range.start) {
                self.at = run.end;
                if flags & QEMU_STATE_DIRTY != 0 {
                    self.push(run)?;
                }
            }
            if self.at == before {
                return Err(NbdError::Protocol("the dirty bitmap has a gap"));
            }
        }
        Ok(())
    }

    fn push(&mut self, run: Range<u64>) -> Result<(), NbdError> {
        if let Some(last) = self.ranges.last_mut().filter(|last| last.end == run.start) {
            last.end = run.end;
            return Ok(());
        }
        if self.ranges.len() == MOST_RANGES {
            return Err(NbdError::Protocol("the dirty bitmap has too many ranges"));
        }
        self.ranges.push(run);
        Ok(())
    }
}

/// A connection with the bitmap selected.
async fn establish(uri: &NbdUri, name: &str, context: &str) -> Result<Connection, NbdError> {
    let connecting = async {
        let mut negotiation = open(uri).await?;
        let contexts = negotiation.select(&uri.export, &[context.to_owned()]).await?;
        let selected = contexts.iter().any(|(_, selected)| selected == context);
        // Entering transmission comes first: that there is no such export says more.
        let connection = Connection::start(negotiation, &uri.export, contexts).await?;
        Ok::<_, NbdError>((connection, selected))
    };
    let after = CONNECT_PATIENCE;
    let (connection, selected) =
        timeout(after, connecting).await.map_err(|_| NbdError::Timeout { after })??;
    if selected {
        return Ok(connection);
    }
    drop(connection);
    Err(NbdError::NoSuchBitmap { name: name.to_owned(), offered: offered(uri).await? })
}
