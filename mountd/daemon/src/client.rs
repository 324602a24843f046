//! Asking a daemon.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::protocol::{Answer, LONGEST_ANSWER, LONGEST_REQUEST, Request, Shown};
use crate::runner::Failure;

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

/// Why a daemon did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no mountd listens on {}", .0.display())]
    Nobody(PathBuf),
    /// The socket cannot be used, or the daemon went away.
    #[error("cannot talk to the mountd on {}", path.display())]
    Talk {
        /// The socket.
        path: PathBuf,
        /// What the system reports.
        source: io::Error,
    },
    /// The daemon answered that it failed.
    #[error("{}", .0.message)]
    Failed(Failure),
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::Nobody`] when no daemon runs, [`ClientError::Talk`].
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Self { stream: BufReader::new(stream), path: path.to_owned() }),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ClientError::Nobody(path.to_owned())
                }
                _ => ClientError::Talk { path: path.to_owned(), source: error },
            }),
        }
    }

    /// Asks; the mounts that the request was about.
    ///
    /// # Errors
    /// [`ClientError::Failed`] with what the daemon answered, [`ClientError::Talk`].
    pub async fn ask(&mut self, request: &Request) -> Result<Vec<Shown>, ClientError> {
        let line = request.encode();
        if line.len() > LONGEST_REQUEST {
            let text = format!("the request has over {LONGEST_REQUEST} bytes");
            return Err(ClientError::Failed(Failure::new("protocol", text)));
        }
        let line = self.talk(&line).await;
        let line = line.map_err(|source| ClientError::Talk { path: self.path.clone(), source })?;
        match Answer::decode(&line).map_err(ClientError::Failed)? {
            Answer::Mounts(mounts) => Ok(mounts),
            Answer::Failure(failure) => Err(ClientError::Failed(failure)),
        }
    }

    async fn talk(&mut self, line: &[u8]) -> io::Result<Vec<u8>> {
        // A daemon that refuses may have answered and closed already.
        let written = self.stream.get_mut().write_all(line).await;
        let mut answer = Vec::new();
        let mut limited = (&mut self.stream).take(LONGEST_ANSWER as u64 + 1);
        limited.read_until(b'\n', &mut answer).await?;
        if answer.is_empty() {
            written?;
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it went away"));
        }
        Ok(answer)
    }
}
