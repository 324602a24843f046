//! A proxy between an S3 client and its server that breaks what passes through it.
//!
//! It understands as much of HTTP/1.1 as the two sides use: requests with a Content-Length, and
//! responses with one or in chunks. The server stays unnamed, so that the client cannot know it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What happens to a request or to its answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answered by the proxy with this status and body; the server never sees it.
    Answer(u16, String),
    /// Executed by the server; its answer is replaced by this status.
    AnswerAfter(u16),
    /// Executed by the server; the connection is reset instead of an answer.
    ResetAfter,
    /// The connection is reset after so many bytes of the answer's body.
    Reset(usize),
    /// The connection is closed, in order, after so many bytes of the answer's body.
    Close(usize),
    /// Nothing comes after so many bytes of the answer's body.
    Stall(usize),
    /// No answer comes.
    Silence,
    /// One bit of this byte of the answer's body is flipped.
    Flip(usize),
    /// The answer's body comes in pieces of this size with a pause between them.
    Drip(usize, Duration),
}

#[derive(Debug)]
struct Rule {
    method: &'static str,
    times: usize,
    fault: Fault,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    heads: Vec<String>,
}

/// A running proxy on loopback; it ends when dropped.
pub struct Proxy {
    address: String,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Starts a proxy in front of the server at `host:port`.
    pub async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, state) = (server.clone(), Arc::clone(&shared));
                // A connection that breaks is what the tests are about.
                tokio::spawn(async move { Connection::open(client, server, state).await });
            }
        });
        Self { address, state, task }
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next `times` requests with this method meet the fault.
    pub fn inject(&self, method: &'static str, times: usize, fault: Fault) {
        self.state.lock().unwrap().rules.push(Rule { method, times, fault });
    }

    /// The heads of all requests so far, in lower case.
    pub fn heads(&self) -> Vec<String> {
        self.state.lock().unwrap().heads.clone()
    }
}

fn draw(state: &Mutex<State>, head: &str) -> Option<Fault> {
    let mut state = state.lock().unwrap();
    state.heads.push(head.to_ascii_lowercase());
    let fits = |rule: &&mut Rule| rule.times > 0 && head.starts_with(rule.method);
    let rule = state.rules.iter_mut().find(fits)?;
    rule.times -= 1;
    Some(rule.fault.clone())
}

struct Connection {
    client: BufReader<TcpStream>,
    server: BufReader<TcpStream>,
    /// Where the server is.
    address: String,
}

/// How an answer's body ends.
enum Length {
    Known(usize),
    Chunked,
}

type Io<T> = std::io::Result<T>;

impl Connection {
    async fn open(client: TcpStream, address: String, state: Arc<Mutex<State>>) -> Io<()> {
        client.set_nodelay(true)?;
        let server = connect(&address).await?;
        let mut connection = Self { client: BufReader::new(client), server, address };
        while connection.exchange(&state).await? {}
        Ok(())
    }

    /// Passes one request and its answer; returns whether the connection lives on.
    async fn exchange(&mut self, state: &Mutex<State>) -> Io<bool> {
        let head = read_head(&mut self.client).await?;
        if head.is_empty() {
            return Ok(false);
        }
        let mut body = vec![0; content_length(&head).unwrap_or(0)];
        self.client.read_exact(&mut body).await?;
        let fault = draw(state, &head);
        match fault {
            Some(Fault::Answer(status, text)) => {
                self.answer(status, &text).await?;
                return Ok(true);
            }
            Some(Fault::Silence) => std::future::pending().await,
            _ => {}
        }
        let (head, body) = match self.pass(&head, &body).await {
            Ok(answer) => answer,
            // Servers close connections on which nothing comes for some seconds.
            Err(_) => {
                self.server = connect(&self.address).await?;
                self.pass(&head, &body).await?
            }
        };
        match fault {
            Some(Fault::AnswerAfter(status)) => self.answer(status, "").await?,
            Some(Fault::ResetAfter) => return self.reset(),
            Some(fault) => {
                self.client.write_all(head.as_bytes()).await?;
                return self.break_body(body, fault).await;
            }
            None => {
                self.client.write_all(head.as_bytes()).await?;
                self.client.write_all(&body).await?;
            }
        }
        Ok(true)
    }

    /// The server's answer to a request.
    async fn pass(&mut self, head: &str, body: &[u8]) -> Io<(String, Vec<u8>)> {
        self.server.write_all(head.as_bytes()).await?;
        self.server.write_all(body).await?;
        self.read_answer(head.starts_with("HEAD")).await
    }

    async fn break_body(&mut self, mut body: Vec<u8>, fault: Fault) -> Io<bool> {
        match fault {
            Fault::Reset(after) => {
                self.client.write_all(&body[..after]).await?;
                // The bytes before it should arrive.
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.reset()
            }
            Fault::Close(after) => {
                self.client.write_all(&body[..after]).await?;
                self.client.shutdown().await?;
                Ok(false)
            }
            Fault::Stall(after) => {
                self.client.write_all(&body[..after]).await?;
                std::future::pending().await
            }
            Fault::Flip(at) => {
                body[at] ^= 1;
                self.client.write_all(&body).await?;
                Ok(true)
            }
            Fault::Drip(size, pause) => {
                for piece in body.chunks(size) {
                    self.client.write_all(piece).await?;
                    tokio::time::sleep(pause).await;
                }
                Ok(true)
            }
            _ => Ok(true),
        }
    }

    fn reset(&mut self) -> Io<bool> {
        // Closing with no time to linger sends RST.
        self.client.get_ref().set_zero_linger()?;
        Ok(false)
    }

    async fn answer(&mut self, status: u16, text: &str) -> Io<()> {
        let length = text.len();
        let answer =
            format!("HTTP/1.1 {status} Injected\r\nContent-Length: {length}\r\n\r\n{text}");
        self.client.write_all(answer.as_bytes()).await
    }

    /// Reads a whole answer; chunks stay framed as they are.
    async fn read_answer(&mut self, bodiless: bool) -> Io<(String, Vec<u8>)> {
        let head = read_head(&mut self.server).await?.replace("\r\nServer: ", "\r\nX-Server: ");
        if head.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let lower = head.to_ascii_lowercase();
        let length = if bodiless || lower.starts_with("http/1.1 204") {
            Length::Known(0)
        } else if lower.contains("transfer-encoding: chunked") {
            Length::Chunked
        } else {
            Length::Known(content_length(&head).unwrap_or(0))
        };
        let mut body = Vec::new();
        match length {
            Length::Known(length) => {
                body.resize(length, 0);
                self.server.read_exact(&mut body).await?;
            }
            Length::Chunked => while self.read_chunk(&mut body).await? {},
        }
        Ok((head, body))
    }

    async fn read_chunk(&mut self, body: &mut Vec<u8>) -> Io<bool> {
        let mut line = String::new();
        self.server.read_line(&mut line).await?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        let mut chunk = vec![0; size + 2];
        self.server.read_exact(&mut chunk).await?;
        body.extend_from_slice(line.as_bytes());
        body.extend_from_slice(&chunk);
        Ok(size > 0)
    }
}

async fn connect(address: &str) -> Io<BufReader<TcpStream>> {
    let server = TcpStream::connect(address).await?;
    server.set_nodelay(true)?;
    Ok(BufReader::new(server))
}

async fn read_head(stream: &mut BufReader<TcpStream>) -> Io<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(String::new());
        }
    }
    Ok(head)
}

fn content_length(head: &str) -> Option<usize> {
    let line = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    };
    head.lines().find_map(line)
}
