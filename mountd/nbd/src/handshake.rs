//! The server's side of the fixed newstyle negotiation.

use std::io;

use bytes::BytesMut;
use sluice_nbd_wire::{ClientFlags, Greeting, HandshakeFlags, OptionHeader, WireError};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::command::Agreement;
use crate::export::Exports;
use crate::negotiation::{Negotiation, Next, Secrecy};

/// Why a negotiation did not lead to transmission.
#[derive(Debug, Error)]
pub(crate) enum HandshakeError {
    /// The client broke the protocol.
    #[error("the client does not speak the protocol: {0}")]
    Wire(#[from] WireError),
    /// The client set flags that were not offered.
    #[error("the client set unknown flags {0:#x}")]
    Flags(u32),
    /// There is no such export, and the option has no way to say so.
    #[error("the client asked for the unknown export {0:?}")]
    UnknownExport(String),
    /// The export cannot be opened in this way, and the option has no way to say so.
    #[error("the client cannot have the export {name:?}: {reason}")]
    Refused {
        /// The name asked for.
        name: String,
        /// Why not.
        reason: String,
    },
    /// Bytes came before the encryption that they should have been under.
    #[error("the client sent bytes between asking for encryption and being told to go ahead")]
    Injected,
    /// The encryption was not agreed on.
    #[error("the client could not be agreed with on encryption: {0}")]
    Tls(#[from] s2n_tls::error::Error),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// How a negotiation ended.
pub(crate) enum Outcome {
    /// Requests come next.
    Transmission(Agreement),
    /// A TLS handshake comes next, and then options again.
    Upgrade,
    /// The client ended the session in good order.
    End,
}

/// Sends the greeting and reads the flags of the client.
pub(crate) async fn greet<R, W>(
    input: &mut R,
    output: &mut W,
) -> Result<ClientFlags, HandshakeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
    let mut out = BytesMut::new();
    Greeting { flags }.encode(&mut out);
    output.write_all_buf(&mut out).await?;
    output.flush().await?;
    let mut bytes = [0; ClientFlags::LEN];
    input.read_exact(&mut bytes).await?;
    let client = ClientFlags::decode(&bytes)?;
    if client.without(ClientFlags::KNOWN) != ClientFlags::empty() {
        return Err(HandshakeError::Flags(client.0));
    }
    Ok(client)
}

/// Answers options until one of them ends the negotiation.
pub(crate) async fn negotiate<R, W>(
    exports: &Exports,
    client: ClientFlags,
    secrecy: Secrecy,
    input: &mut R,
    output: &mut W,
) -> Result<Outcome, HandshakeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let no_zeroes = client.contains(ClientFlags::NO_ZEROES);
    let mut negotiation = Negotiation::new(exports, no_zeroes, secrecy);
    loop {
        let mut head = [0; OptionHeader::LEN];
        if input.read(&mut head[..1]).await? == 0 {
            return Ok(Outcome::End);
        }
        input.read_exact(&mut head[1..]).await?;
        let header = OptionHeader::decode(&head)?;
        // The header was admitted, so this is at most `limits::OPTION_DATA`.
        let mut data = vec![0; header.length as usize];
        input.read_exact(&mut data).await?;
        let next = negotiation.option(header.code, &data).await?;
        output.write_all_buf(&mut negotiation.out).await?;
        output.flush().await?;
        match next {
            Next::Continue => {}
            Next::Transmission(agreement) => return Ok(Outcome::Transmission(agreement)),
            Next::Upgrade => return Ok(Outcome::Upgrade),
            Next::End => return Ok(Outcome::End),
        }
    }
}
