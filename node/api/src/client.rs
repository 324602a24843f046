//! A client of the server: JSON over HTTPS. A connection that has answered is used again within
//! seconds: a node that reports on many tasks would otherwise do little but shake hands.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::identity::Identity;
use crate::pin::{self, Fingerprint};

/// The most of an answer that is read, in bytes.
const LARGEST: usize = 64 << 20;
/// How long a connection is kept for the next request: shorter than servers wait for one.
const IDLE: Duration = Duration::from_secs(5);
/// How many are kept.
const KEPT: usize = 8;
/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long to wait for an answer; longer than the server keeps a request for a lease.
const ANSWER: Duration = Duration::from_secs(90);

/// Why there is no answer, or not the wanted one.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The address cannot be one of a server.
    #[error("{0} is not https://HOST:PORT")]
    Address(String),
    /// The server cannot be reached, or is not the one it should be.
    #[error("cannot reach {server}")]
    Unreachable {
        /// Its address.
        server: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The node's own certificate cannot be shown.
    #[error("this node's certificate cannot be used: let it join again")]
    Identity(#[source] rustls::Error),
    /// The server refuses.
    #[error("{title}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// A word for programs.
        code: String,
        /// What it says.
        title: String,
    },
    /// The answer makes no sense.
    #[error("the server's answer is not understood; is it another version?")]
    Answer(#[source] serde_json::Error),
}

impl ClientError {
    /// The HTTP status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The word of a refusal; empty for anything else.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            _ => "",
        }
    }
}

/// A successful answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The document; null when there is none.
    pub body: Value,
}

/// Something that is being read.
#[derive(Debug)]
pub struct Download {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    body: Incoming,
    client: Client,
}

impl Download {
    /// The next piece; nothing at the end.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when it ends early.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = tokio::time::timeout(ANSWER, self.body.frame()).await;
            let frame = frame.map_err(|error| self.client.lost(error))?;
            let Some(frame) = frame else { return Ok(None) };
            // What is no data is about it.
            if let Ok(bytes) = frame.map_err(|error| self.client.lost(error))?.into_data() {
                return Ok(Some(bytes));
            }
        }
    }
}

/// What a server says that refuses.
fn refused(status: http::StatusCode, body: &Value) -> ClientError {
    let word = |name: &str| body[name].as_str().map(str::to_owned);
    ClientError::Refused {
        status: status.as_u16(),
        code: word("code").unwrap_or_default(),
        title: word("detail")
            .or_else(|| word("title"))
            .unwrap_or_else(|| format!("the server answers {status}")),
    }
}

/// Speaks to one server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    server: String,
    host: String,
    port: u16,
    pinned: Fingerprint,
    shown: Arc<RwLock<Shown>>,
}

/// Who the client says it is.
#[derive(Clone)]
struct Shown {
    tls: TlsConnector,
    token: Option<Arc<Zeroizing<String>>>,
    idle: Arc<Mutex<Vec<Idle>>>,
}

impl Shown {
    /// A connection that was used before, if there is one.
    fn idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, sender)| since.elapsed() < IDLE && sender.is_ready());
        idle.pop().map(|(_, sender)| sender)
    }
}

/// A connection on which nothing is under way, and since when.
type Idle = (Instant, SendRequest<Full<Bytes>>);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of `https://HOST:PORT` whose certificate has that fingerprint.
    ///
    /// # Errors
    /// [`ClientError::Address`] for another address.
    pub fn new(server: &str, fingerprint: Fingerprint) -> Result<Self, ClientError> {
        let bad = || ClientError::Address(server.to_owned());
        let server = server.trim_end_matches('/');
        let rest = server.strip_prefix("https://").ok_or_else(bad)?;
        let authority: http::uri::Authority = rest.parse().map_err(|_| bad())?;
        let config = pin::config(fingerprint, None).map_err(|_| bad())?;
        Ok(Self {
            server: server.to_owned(),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(443),
            pinned: fingerprint,
            shown: Arc::new(RwLock::new(Shown {
                tls: TlsConnector::from(Arc::new(config)),
                token: None,
                idle: Arc::default(),
            })),
        })
    }

    fn shown(&self) -> Shown {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same with a token to show.
    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        let token = Some(Arc::new(Zeroizing::new(token.to_owned())));
        let shown = Arc::new(RwLock::new(Shown { token, ..self.shown() }));
        Self { shown, ..self }
    }

    /// Shows this certificate from now on, and no token; so do all clones.
    ///
    /// # Errors
    /// [`ClientError::Identity`] when key or certificate are damaged.
    pub fn show(&self, identity: &Identity) -> Result<(), ClientError> {
        let config = pin::config(self.pinned, Some(identity));
        let config = config.map_err(ClientError::Identity)?;
        let tls = TlsConnector::from(Arc::new(config));
        let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        // Connections made before say who it was.
        *shown = Shown { tls, token: None, idle: Arc::default() };
        Ok(())
    }

    /// Its address.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Sends a document and reads one.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_value(body).map_err(ClientError::Answer)?;
        let answer = self.send(Method::POST, path, Some(&body), &[]).await?;
        serde_json::from_value(answer.body).map_err(ClientError::Answer)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answer = self.send(Method::GET, path, None, &[]).await?;
        serde_json::from_value(answer.body).map_err(ClientError::Answer)
    }

    /// Reads what is no document: an image, or text.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn fetch(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        let (shown, request) = self.reading(path, &[])?;
        let (head, bytes) = tokio::time::timeout(ANSWER, self.exchange(&shown, request))
            .await
            .map_err(|error| self.lost(error))??;
        if head.status.is_success() {
            return Ok(bytes);
        }
        Err(refused(head.status, &serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    /// Begins to read something that may be larger than memory.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn open(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Download, ClientError> {
        let (shown, request) = self.reading(path, headers)?;
        let begun = async {
            let mut sender = self.connected(&shown.tls).await?;
            sender.send_request(request).await.map_err(|error| self.lost(error))
        };
        let begun = tokio::time::timeout(ANSWER, begun).await.map_err(|error| self.lost(error))?;
        let (head, body) = begun?.into_parts();
        if head.status.is_success() {
            let (status, headers) = (head.status.as_u16(), head.headers);
            return Ok(Download { status, headers, body, client: self.clone() });
        }
        let read = Limited::new(body, LARGEST).collect();
        let read = tokio::time::timeout(ANSWER, read).await.map_err(|error| self.lost(error))?;
        let bytes = read.map_err(|error| self.lost(error))?.to_bytes();
        Err(refused(head.status, &serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    /// A request that has no document.
    fn reading(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(Shown, Request<Full<Bytes>>), ClientError> {
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .header("host", format!("{}:{}", self.host, self.port));
        let shown = self.shown();
        if let Some(token) = &shown.token {
            request = request.header("authorization", format!("Bearer {}", token.as_str()));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).map_err(|error| self.lost(error))?;
        Ok((shown, request))
    }

    /// Sends any request.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<Answer, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", format!("{}:{}", self.host, self.port))
            .header("accept", "application/json");
        let shown = self.shown();
        if let Some(token) = &shown.token {
            request = request.header("authorization", format!("Bearer {}", token.as_str()));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let bytes = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Bytes::from(serde_json::to_vec(body).map_err(ClientError::Answer)?)
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(bytes)).map_err(|error| self.lost(error))?;
        let (head, bytes) = tokio::time::timeout(ANSWER, self.exchange(&shown, request))
            .await
            .map_err(|error| self.lost(error))??;
        let body = match bytes.as_slice() {
            [] => Ok(Value::Null),
            bytes => serde_json::from_slice(bytes),
        };
        if head.status.is_success() {
            let status = head.status.as_u16();
            return Ok(Answer {
                status,
                headers: head.headers,
                body: body.map_err(ClientError::Answer)?,
            });
        }
        let body = body.unwrap_or_default();
        Err(refused(head.status, &body))
    }

    async fn exchange(
        &self,
        shown: &Shown,
        request: Request<Full<Bytes>>,
    ) -> Result<(http::response::Parts, Vec<u8>), ClientError> {
        let mut request = request;
        // One that the server has just closed takes nothing, and gives the request back.
        while let Some(mut sender) = shown.idle() {
            match sender.try_send_request(request).await {
                Ok(answer) => return self.read(shown, answer, sender).await,
                Err(mut failed) => match failed.take_message() {
                    Some(back) => request = back,
                    None => return Err(self.lost(failed.into_error())),
                },
            }
        }
        let mut sender = self.connected(&shown.tls).await?;
        let answer = sender.send_request(request).await.map_err(|error| self.lost(error))?;
        self.read(shown, answer, sender).await
    }

    async fn connected(&self, tls: &TlsConnector) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let connect = async {
            let socket = TcpStream::connect((self.host.as_str(), self.port)).await?;
            socket.set_nodelay(true)?;
            let name = ServerName::try_from(self.host.clone()).map_err(std::io::Error::other)?;
            tls.connect(name, socket).await
        };
        let stream = tokio::time::timeout(CONNECT, connect)
            .await
            .map_err(|error| self.lost(error))?
            .map_err(|error| self.lost(error))?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.lost(error))?;
        // Ends when the sender is dropped; what goes wrong shows in an answer.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    /// Reads an answer to its end, and keeps the connection.
    async fn read(
        &self,
        shown: &Shown,
        answer: http::Response<Incoming>,
        sender: SendRequest<Full<Bytes>>,
    ) -> Result<(http::response::Parts, Vec<u8>), ClientError> {
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LARGEST).collect().await;
        let bytes = body.map_err(|error| self.lost(error))?.to_bytes().to_vec();
        let mut idle = shown.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push((Instant::now(), sender));
        }
        Ok((head, bytes))
    }

    fn lost(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Unreachable { server: self.server.clone(), source: error.into() }
    }
}
