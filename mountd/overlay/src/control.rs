//! A socket in the overlay's folder, for whoever wants something of the process that uses it.
//!
//! A client sends one line of JSON, a request, and gets lines of JSON: progress, as often as there
//! is some, and last the outcome. Who may use the folder may use the socket.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

/// Bytes of the longest request; metadata has its place in it.
const LONGEST: u64 = 8 << 20;
/// Lines of progress that wait for a client; more are left out.
const WAITING: usize = 8;

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// How is it?
    Status,
    /// Make a restore point of what the disks hold now.
    Commit {
        /// The instance that gets the point; the base's own when `None`.
        instance: Option<String>,
    },
    /// Copy what lies below into the overlay's folder.
    Hydrate {
        /// Most bytes a second.
        rate: Option<u64>,
        /// Files or devices that become the disks, one for each; none for the folder.
        #[serde(default)]
        to: Vec<PathBuf>,
    },
}

/// A line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// How far it has come.
    Progress(Value),
    /// It is done.
    Done(Value),
    /// It failed.
    Failed(Value),
}

/// Tells a client of progress. Nobody waits for a client that does not listen.
#[derive(Debug, Clone)]
pub struct Teller(mpsc::Sender<Value>);

impl Teller {
    /// Sends a line of progress if the client has read those before.
    pub fn tell(&self, progress: Value) {
        let _ = self.0.try_send(progress);
    }
}

/// Does what is asked for.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Handles a request, to the document of its outcome, or of its failure. It goes on when the
    /// client goes away.
    async fn handle(&self, request: Request, teller: Teller) -> Result<Value, Value>;
}

/// The socket of an overlay in use.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

/// The name of a folder's socket that fits into an address, whatever the folder's own name. Good
/// while the file is open.
fn address(folder: &std::fs::File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/control.sock", folder.as_raw_fd()))
}

impl Control {
    /// Opens the socket of the overlay in a folder, which this process uses.
    ///
    /// # Errors
    /// What the system reports.
    pub fn bind(folder: &Path) -> io::Result<Self> {
        let path = folder.join("control.sock");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let opened = std::fs::File::open(folder)?;
        Ok(Self { listener: UnixListener::bind(address(&opened))?, path })
    }

    /// Answers until dropped.
    pub async fn serve(self, handler: Arc<dyn Handler>) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let handler = handler.clone();
                    tokio::spawn(async move {
                        if let Err(error) = answer(stream, handler).await {
                            tracing::debug!(%error, "a client of the control socket went away");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket cannot accept");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(stream: UnixStream, handler: Arc<dyn Handler>) -> io::Result<()> {
    let (input, mut output) = stream.into_split();
    let mut line = String::new();
    BufReader::new(input.take(LONGEST)).read_line(&mut line).await?;
    let request: Request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => {
            let refused = Answer::Failed(serde_json::json!({ "message": error.to_string() }));
            return send(&mut output, &refused).await;
        }
    };
    let (sender, mut progress) = mpsc::channel(WAITING);
    let work = tokio::spawn(async move { handler.handle(request, Teller(sender)).await });
    while let Some(progress) = progress.recv().await {
        send(&mut output, &Answer::Progress(progress)).await?;
    }
    let outcome = match work.await {
        Ok(Ok(done)) => Answer::Done(done),
        Ok(Err(failed)) => Answer::Failed(failed),
        Err(error) => Answer::Failed(serde_json::json!({ "message": error.to_string() })),
    };
    send(&mut output, &outcome).await
}

async fn send(output: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    output.write_all(&line).await
}

/// Asks the process that uses the overlay in a folder, and tells `progress` what it says meanwhile.
///
/// # Errors
/// What the system reports; a process that ends before it has answered is
/// [`io::ErrorKind::UnexpectedEof`].
pub async fn ask(
    folder: &Path,
    request: &Request,
    mut progress: impl FnMut(Value),
) -> io::Result<Result<Value, Value>> {
    let opened = std::fs::File::open(folder)?;
    let stream = UnixStream::connect(address(&opened)).await?;
    let (input, mut output) = stream.into_split();
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    output.write_all(&line).await?;
    let mut lines = BufReader::new(input).lines();
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str(&line)? {
            Answer::Progress(value) => progress(value),
            Answer::Done(value) => return Ok(Ok(value)),
            Answer::Failed(value) => return Ok(Err(value)),
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    #[async_trait]
    impl Handler for Echo {
        async fn handle(&self, request: Request, teller: Teller) -> Result<Value, Value> {
            teller.tell(serde_json::json!(1));
            match request {
                Request::Status => Ok(serde_json::json!({"fine": true})),
                Request::Hydrate { rate, .. } => Ok(serde_json::json!(rate)),
                Request::Commit { instance } => Err(serde_json::json!(instance)),
            }
        }
    }

    #[tokio::test]
    async fn requests_are_answered_in_a_folder_of_any_name_and_nonsense_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("x".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        // What a killed process left.
        std::fs::write(deep.join("control.sock"), "").unwrap();
        let serving = tokio::spawn(Control::bind(&deep).unwrap().serve(Arc::new(Echo)));
        let mut told = Vec::new();
        let done = ask(&deep, &Request::Status, |progress| told.push(progress)).await.unwrap();
        assert_eq!((done.unwrap()["fine"].clone(), told), (true.into(), vec![1.into()]));
        let commit = Request::Commit { instance: Some("x".into()) };
        assert_eq!(ask(&deep, &commit, drop).await.unwrap().unwrap_err(), "x");
        let opened = std::fs::File::open(&deep).unwrap();
        let mut stream = UnixStream::connect(address(&opened)).await.unwrap();
        stream.write_all(b"{\"command\": \"dance\"}\n").await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert!(said.contains("failed") && said.contains("dance"), "{said}");
        serving.abort();
        let _ = serving.await;
        assert!(!deep.join("control.sock").exists());
        ask(&deep, &Request::Status, drop).await.unwrap_err();
    }
}
