//! A server to test, a disk with every kind of run, a raw client, and external programs.

use std::io::ErrorKind as IoErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;
use sluice_block::{BlockRead, MemoryDisk};
use sluice_nbd::{Export, Limits, Listener, Server};
use sluice_nbd_wire::{
    Chunk, ChunkHeader, ClientFlags, Command, CommandFlags, Errno, Framing, Greeting, Info,
    InfoRequest, MetaRequest, OptionReply, OptionReplyHeader, OptionRequest, ReplyHeader, Request,
    SimpleReply, TransmissionFlags,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A disk of data, holes and odd patterns whose size is a multiple of 512 only.
pub fn sample() -> Vec<u8> {
    let mut bytes = vec![0u8; (20 << 20) + 3 * 512];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for range in [0..5000, 1 << 20..3 << 20, 9 << 20..(9 << 20) + 70_000, 20 << 20..(20 << 20) + 9]
    {
        for byte in &mut bytes[range] {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
    }
    bytes
}

pub struct Fixture {
    pub dir: TempDir,
    pub address: SocketAddr,
    pub socket: PathBuf,
    pub shutdown: CancellationToken,
    pub served: JoinHandle<()>,
}

impl Fixture {
    /// Serves `device` as "disk" over TCP and a Unix socket.
    pub async fn device(device: Arc<dyn BlockRead>, limits: Limits) -> Self {
        let export = Export::new("disk", device).with_description("the first disk");
        Self::exports(vec![export], limits).await
    }

    pub async fn exports(exports: Vec<Export>, limits: Limits) -> Self {
        Self::serve(Server::new(exports, limits).unwrap()).await
    }

    pub async fn serve(server: Server) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("nbd.sock");
        let listeners =
            [Listener::Tcp("127.0.0.1:0".parse().unwrap()), Listener::Unix(socket.clone())];
        let bound = server.bind(&listeners).await.unwrap();
        let address = bound.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(bound.serve(shutdown.clone()));
        Self { dir, address, socket, shutdown, served }
    }

    pub async fn sample() -> Self {
        Self::device(Arc::new(MemoryDisk::from_bytes(&sample())), Limits::default()).await
    }

    pub fn tcp(&self, export: &str) -> String {
        format!("nbd://{}/{export}", self.address)
    }

    pub fn unix(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    /// Both ways to reach an export.
    pub fn uris(&self, export: &str) -> [String; 2] {
        [self.tcp(export), self.unix(export)]
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.served.await.unwrap();
    }
}

/// What a program printed and whether it succeeded.
#[derive(Debug)]
pub struct Ran {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

/// Runs a program of a Debian package.
pub async fn run(package: &str, program: &str, args: &[&str]) -> Ran {
    let output = match tokio::process::Command::new(program).args(args).output().await {
        Ok(output) => output,
        Err(error) if error.kind() == IoErrorKind::NotFound => {
            panic!("{program} is missing: install the Debian package {package}")
        }
        Err(error) => panic!("cannot run {program}: {error}"),
    };
    Ran {
        ok: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a program that must succeed; returns what it printed.
pub async fn succeed(package: &str, program: &str, args: &[&str]) -> String {
    let ran = run(package, program, args).await;
    assert!(ran.ok, "{program} {args:?} failed:\n{}{}", ran.out, ran.err);
    ran.out
}

/// A client that says exactly what a test wants to say.
pub struct Raw {
    pub stream: TcpStream,
    pub framing: Framing,
}

impl Raw {
    /// Connects and gets past the greeting.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut greeting = [0; Greeting::LEN];
        stream.read_exact(&mut greeting).await.unwrap();
        Greeting::decode(&greeting).unwrap();
        let flags = ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES;
        stream.write_all(&flags.0.to_be_bytes()).await.unwrap();
        Self { stream, framing: Framing::Simple }
    }

    /// Connects and enters transmission on "disk", with block status where there is any.
    pub async fn ready(address: SocketAddr, framing: Framing) -> Self {
        let mut raw = Self::connect(address).await;
        match framing {
            Framing::Simple => {}
            Framing::Structured => raw.acknowledged(OptionRequest::StructuredReply).await,
            Framing::Extended => raw.acknowledged(OptionRequest::ExtendedHeaders).await,
        }
        if framing != Framing::Simple {
            let queries = vec!["base:allocation".to_owned()];
            let request = MetaRequest { export: "disk".into(), queries };
            assert_eq!(raw.option(OptionRequest::SetMetaContext(request)).await.len(), 2);
        }
        raw.go("disk").await;
        raw.framing = framing;
        raw
    }

    pub async fn go(&mut self, name: &str) -> (u64, TransmissionFlags) {
        let request = InfoRequest { name: name.into(), infos: vec![] };
        let replies = self.option(OptionRequest::Go(request)).await;
        assert_eq!(replies.last(), Some(&OptionReply::Ack));
        let export = replies.iter().find_map(|reply| match reply {
            OptionReply::Info(Info::Export { size, flags }) => Some((*size, *flags)),
            _ => None,
        });
        export.expect("the reply to GO describes the export")
    }

    /// Sends an option; returns all replies up to the final one.
    pub async fn option(&mut self, request: OptionRequest) -> Vec<OptionReply> {
        let mut out = BytesMut::new();
        request.encode(&mut out);
        self.stream.write_all(&out).await.unwrap();
        let mut replies = vec![];
        loop {
            let mut head = [0; OptionReplyHeader::LEN];
            self.stream.read_exact(&mut head).await.unwrap();
            let header = OptionReplyHeader::decode(&head).unwrap();
            assert_eq!(header.option, request.code());
            let mut data = vec![0; header.length as usize];
            self.stream.read_exact(&mut data).await.unwrap();
            let reply = OptionReply::decode(header.reply, &data).unwrap();
            let done = reply == OptionReply::Ack || header.reply.is_error();
            replies.push(reply);
            if done {
                return replies;
            }
        }
    }

    pub async fn acknowledged(&mut self, request: OptionRequest) {
        assert_eq!(self.option(request).await, [OptionReply::Ack]);
    }

    pub async fn send(&mut self, command: Command, cookie: u64, offset: u64, length: u64) {
        self.send_flagged(CommandFlags::empty(), command, cookie, offset, length).await;
    }

    pub async fn send_flagged(
        &mut self,
        flags: CommandFlags,
        command: Command,
        cookie: u64,
        offset: u64,
        length: u64,
    ) {
        let mut out = BytesMut::new();
        Request { flags, command, cookie, offset, length }.encode(self.framing, &mut out);
        self.stream.write_all(&out).await.unwrap();
    }

    pub async fn read(&mut self, cookie: u64, offset: u64, length: u64) {
        self.send(Command::Read, cookie, offset, length).await;
    }

    /// The header of the next simple reply.
    pub async fn simple(&mut self) -> (Option<Errno>, u64) {
        let mut head = [0; SimpleReply::LEN];
        self.stream.read_exact(&mut head).await.unwrap();
        match ReplyHeader::decode(Framing::Simple, &head).unwrap() {
            ReplyHeader::Simple(reply) => (reply.error, reply.cookie),
            ReplyHeader::Chunk(_) => unreachable!("simple framing has no chunks"),
        }
    }

    /// The next chunk and its payload.
    pub async fn chunk(&mut self) -> (ChunkHeader, Vec<u8>) {
        let mut head = vec![0; ChunkHeader::len(self.framing)];
        self.stream.read_exact(&mut head).await.unwrap();
        let ReplyHeader::Chunk(header) = ReplyHeader::decode(self.framing, &head).unwrap() else {
            panic!("a simple reply where a chunk was expected")
        };
        let mut payload = vec![0; header.length as usize];
        self.stream.read_exact(&mut payload).await.unwrap();
        Chunk::decode(header.kind, &payload).unwrap();
        (header, payload)
    }

    /// The error of the next reply, in the framing of the connection.
    pub async fn error(&mut self) -> Option<Errno> {
        if self.framing == Framing::Simple {
            return self.simple().await.0;
        }
        let (header, payload) = self.chunk().await;
        match Chunk::decode(header.kind, &payload).unwrap() {
            Chunk::Error { error, .. } => Some(error),
            _ => None,
        }
    }

    /// Waits until the server closes the connection.
    pub async fn closed(&mut self) {
        let mut rest = vec![];
        // A reset is as good as an end: bytes may have been on their way.
        let _ = self.stream.read_to_end(&mut rest).await;
    }
}
