//! Standard input as a source.

use std::io;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use sluice_engine::StreamSource;
use tokio::io::AsyncReadExt;

/// Standard input, read once from here to its end.
#[derive(Debug)]
pub(crate) struct StandardInput {
    input: tokio::io::Stdin,
    /// Room that is handed out piece by piece.
    room: BytesMut,
}

impl StandardInput {
    pub(crate) fn new() -> Self {
        Self { input: tokio::io::stdin(), room: BytesMut::new() }
    }
}

#[async_trait]
impl StreamSource for StandardInput {
    async fn next(&mut self, most: usize) -> io::Result<Option<Bytes>> {
        let most = most.clamp(1, 2 << 20);
        self.room.reserve(most);
        let mut limited = (&mut self.input).take(most as u64);
        let read = limited.read_buf(&mut self.room).await?;
        Ok((read > 0).then(|| self.room.split_to(read).freeze()))
    }
}
