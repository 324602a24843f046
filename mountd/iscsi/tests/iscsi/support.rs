//! A server to test, devices that misbehave, and a raw initiator.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sluice_block::{
    BlockError, BlockRead, BlockWrite, ErrorKind, MemoryDisk, Result as BlockResult,
};
use sluice_iscsi::{Carried, Identity, Limits, Lun, Server, Target};
use sluice_iscsi_wire::{
    HEADER, Lengths, LoginRequest, LoginResponse, NO_TAG, NopOut, Numbers, Request, Response,
    ScsiCommand, Serial, Stage, TaskAttribute, TaskFunction, TaskRequest, digest, padding, text,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const NAME: &str = "iqn.2026-01.test:disk";
pub const ISID: [u8; 6] = [0x80, 0, 0, 0, 0, 1];
/// What a session says that is for discovery only.
pub const DISCOVERY: [(&str, &str); 1] = [("SessionType", "Discovery")];

/// A server on free ports; ends when dropped.
pub struct Fixture {
    pub addresses: Vec<SocketAddr>,
    pub shutdown: CancellationToken,
    pub served: JoinHandle<()>,
}

impl Fixture {
    pub async fn new(luns: Vec<Lun>, limits: Limits) -> Self {
        Self::target(Target::new(NAME, luns), limits).await
    }

    pub async fn target(target: Target, limits: Limits) -> Self {
        let portals = [SocketAddr::from(([127, 0, 0, 1], 0)); 2];
        let server = Server::new(target, limits).unwrap();
        let bound = server.bind(&portals).await.unwrap();
        let addresses = bound.addresses().to_vec();
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(bound.serve(shutdown.clone()));
        Self { addresses, shutdown, served }
    }

    /// Serves one disk that can be written.
    pub async fn disk(device: impl BlockWrite + 'static) -> Self {
        Self::new(vec![writable(device, 1)], Limits::default()).await
    }

    pub async fn memory() -> Self {
        Self::disk(MemoryDisk::new(16 << 20)).await
    }

    pub fn url(&self, portal: usize, lun: usize) -> String {
        format!("iscsi://{}/{NAME}/{lun}", self.addresses[portal])
    }

    pub async fn raw(&self) -> Raw {
        Raw::login(self.addresses[0], ISID, &[]).await
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.served.await.unwrap();
    }
}

/// A target whose connections the test carries, and whose sessions can be counted therefore.
pub struct Counted {
    pub addresses: Vec<SocketAddr>,
    pub target: Arc<Carried>,
}

impl Counted {
    pub async fn new(luns: Vec<Lun>, limits: Limits) -> Self {
        let server = Server::new(Target::new(NAME, luns), limits).unwrap();
        let target = Arc::new(Carried::new(server, CancellationToken::new()));
        let mut addresses = Vec::new();
        for _ in 0..2 {
            let socket = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            addresses.push(socket.local_addr().unwrap());
            tokio::spawn(carry(socket, Arc::clone(&target)));
        }
        Self { addresses, target }
    }

    /// Serves one disk that can be written.
    pub async fn disk(device: impl BlockWrite + 'static) -> Self {
        Self::new(vec![writable(device, 1)], Limits::default()).await
    }

    pub async fn memory() -> Self {
        Self::disk(MemoryDisk::new(16 << 20)).await
    }

    pub async fn raw(&self) -> Raw {
        Raw::login(self.addresses[0], ISID, &[]).await
    }
}

async fn carry(socket: TcpListener, target: Arc<Carried>) {
    while let Ok((stream, peer)) = socket.accept().await {
        let (target, local) = (Arc::clone(&target), stream.local_addr().unwrap());
        tokio::spawn(async move { drop(target.serve(peer, local, stream.into_split()).await) });
    }
}

pub fn writable(device: impl BlockWrite + 'static, number: u8) -> Lun {
    Lun::writable(Arc::new(device), Identity::from_digest([number; 32]))
}

/// A disk whose every access waits to be let through.
pub struct Gate {
    pub disk: MemoryDisk,
    /// Told when an access waits.
    pub reached: Notify,
    /// Lets one access through.
    pub open: Notify,
}

impl Gate {
    pub fn new() -> Arc<Self> {
        let disk = MemoryDisk::new(1 << 20);
        Arc::new(Self { disk, reached: Notify::new(), open: Notify::new() })
    }

    async fn pass(&self) {
        self.reached.notify_one();
        self.open.notified().await;
    }
}

pub struct Gated(pub Arc<Gate>);

#[async_trait]
impl BlockRead for Gated {
    fn size(&self) -> u64 {
        self.0.disk.size()
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> BlockResult<()> {
        self.0.pass().await;
        self.0.disk.read_at(offset, buf).await
    }
}

#[async_trait]
impl BlockWrite for Gated {
    async fn write_at(&self, offset: u64, data: &[u8]) -> BlockResult<()> {
        self.0.pass().await;
        self.0.disk.write_at(offset, data).await
    }

    async fn write_zeroes(&self, offset: u64, length: u64) -> BlockResult<()> {
        self.0.disk.write_zeroes(offset, length).await
    }

    async fn flush(&self) -> BlockResult<()> {
        Ok(())
    }
}

/// A disk that crashes in its first block, and cannot be read in its second.
pub struct Broken;

#[async_trait]
impl BlockRead for Broken {
    fn size(&self) -> u64 {
        1 << 20
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> BlockResult<()> {
        assert!(offset > 0, "a crash on purpose");
        if offset == 512 {
            return Err(BlockError::new(ErrorKind::Damaged, "a bad block on purpose"));
        }
        buf.fill(7);
        Ok(())
    }
}

/// An initiator that sends what it is told, right or wrong.
pub struct Raw {
    stream: TcpStream,
    /// Number and tag of the next command.
    pub number: Serial,
    pub tag: u32,
    pub digests: bool,
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self { stream, number: Serial(1), tag: 1, digests: false }
    }

    /// Logs in with additional keys, and takes note that the session is new.
    pub async fn login(address: SocketAddr, isid: [u8; 6], keys: &[(&str, &str)]) -> Self {
        let mut raw = Self::untold(address, isid, keys).await;
        let (status, sense) = raw.status(&[0]).await;
        assert_eq!((status, sense[2], sense[12]), (2, 6, 0x29));
        raw
    }

    /// Logs in with additional keys. The next command fails, with what there is to be told.
    pub async fn untold(address: SocketAddr, isid: [u8; 6], keys: &[(&str, &str)]) -> Self {
        let mut raw = Self::connect(address).await;
        let login = raw.log_in(isid, keys).await;
        assert!(login.transit && login.next == Stage::FullFeature, "{login:?}");
        raw.digests = keys.iter().any(|(key, _)| key.ends_with("Digest"));
        raw
    }

    /// Tries to log in, in one step.
    pub async fn log_in(&mut self, isid: [u8; 6], keys: &[(&str, &str)]) -> LoginResponse {
        let mut said = Vec::new();
        let who = [("InitiatorName", "iqn.2026-01.test:raw"), ("TargetName", NAME)];
        who.iter().chain(keys).for_each(|(key, value)| text::encode(&mut said, key, value));
        self.send(&Self::first(isid), &said).await;
        let (response, _, _) = self.receive().await;
        let Response::Login(login) = response else { panic!("{response:?}") };
        login
    }

    /// A request for login in one step.
    pub fn first(isid: [u8; 6]) -> Request {
        Request::Login(LoginRequest {
            transit: true,
            more: false,
            stage: Stage::Operational,
            next: Stage::FullFeature,
            versions: (0, 0),
            isid,
            tsih: 0,
            tag: 0,
            connection: 1,
            number: Serial(1),
            expected: Serial(0),
        })
    }

    pub async fn send(&mut self, request: &Request, data: &[u8]) {
        let header = request.encode(data.len());
        let mut bytes = header.to_vec();
        if self.digests {
            bytes.extend(digest(&header));
        }
        let mut padded = data.to_vec();
        padded.resize(data.len() + padding(data.len()), 0);
        bytes.extend(&padded);
        if self.digests && !data.is_empty() {
            bytes.extend(digest(&padded));
        }
        self.bytes(&bytes).await;
    }

    pub async fn bytes(&mut self, bytes: &[u8]) {
        self.try_bytes(bytes).await.unwrap();
    }

    /// Sends, to a target that may have hung up.
    pub async fn try_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next message; its digests must be right.
    pub async fn receive(&mut self) -> (Response, Numbers, Vec<u8>) {
        self.try_receive().await.expect("the target closed the connection")
    }

    /// The next message; none when the connection is closed.
    pub async fn try_receive(&mut self) -> Option<(Response, Numbers, Vec<u8>)> {
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header).await.ok()?;
        let mut sum = [0; 4];
        if self.digests {
            self.stream.read_exact(&mut sum).await.ok()?;
            assert_eq!(sum, digest(&header));
        }
        let length = Lengths::decode(&header, 1 << 24).unwrap().data;
        let mut data = vec![0; length + padding(length)];
        self.stream.read_exact(&mut data).await.ok()?;
        if self.digests && length > 0 {
            self.stream.read_exact(&mut sum).await.ok()?;
            assert_eq!(sum, digest(&data));
        }
        data.truncate(length);
        let (response, numbers) = Response::decode(&header).unwrap();
        Some((response, numbers, data))
    }

    /// Waits for the target to close the connection, whatever it says before.
    pub async fn closed(&mut self) {
        while self.try_receive().await.is_some() {}
    }

    /// A command with the next number and tag; sent without unsolicited data.
    pub fn command(&mut self, cdb: &[u8], read: bool, length: u32) -> ScsiCommand {
        let mut block = [0; 16];
        block[..cdb.len()].copy_from_slice(cdb);
        let (number, tag) = (self.number, self.tag);
        self.number = number.plus(1);
        self.tag += 1;
        ScsiCommand {
            immediate: false,
            last: true,
            read: read && length > 0,
            write: !read && length > 0,
            attribute: TaskAttribute::Simple,
            lun: 0,
            tag,
            length,
            number,
            expected: Serial(0),
            cdb: block,
        }
    }

    /// Sends READ (10) or WRITE (10) of some blocks; its tag.
    pub async fn transfer(&mut self, read: bool, lba: u8, blocks: u8, data: &[u8]) -> u32 {
        let cdb = [if read { 0x28 } else { 0x2a }, 0, 0, 0, 0, lba, 0, 0, blocks];
        let command = self.command(&cdb, read, u32::from(blocks) * 512);
        self.send(&Request::Command(command), data).await;
        command.tag
    }

    /// Sends a command without data, and waits for its status and sense data.
    pub async fn status(&mut self, cdb: &[u8]) -> (u8, Vec<u8>) {
        let command = self.command(cdb, true, 0);
        self.send(&Request::Command(command), &[]).await;
        self.answer(command.tag).await
    }

    /// Waits for the status of a command.
    pub async fn answer(&mut self, tag: u32) -> (u8, Vec<u8>) {
        let (response, _, data) = self.receive().await;
        let Response::Command(answer) = response else { panic!("{response:?}") };
        assert_eq!(answer.tag, tag);
        (answer.status, data.get(2..).unwrap_or_default().to_vec())
    }

    /// Reads blocks; the status comes with the data.
    pub async fn read(&mut self, lba: u8, blocks: u8) -> Vec<u8> {
        self.transfer(true, lba, blocks, &[]).await;
        let mut all = Vec::new();
        loop {
            let (response, _, data) = self.receive().await;
            let Response::DataIn(message) = response else { panic!("{response:?}") };
            assert_eq!(message.offset as usize, all.len());
            all.extend(data);
            if let Some((status, _)) = message.status {
                assert_eq!(status, 0);
                return all;
            }
        }
    }

    /// Sends a request for task management; its tag.
    pub async fn manage(&mut self, function: TaskFunction, task: u32) -> u32 {
        let tag = 0x8000_0000 | self.tag;
        self.tag += 1;
        let (number, expected) = (self.number, Serial(0));
        let request = TaskRequest {
            immediate: true,
            function,
            lun: 0,
            tag,
            task,
            number,
            expected,
            task_number: Serial(0),
        };
        self.send(&Request::Task(request), &[]).await;
        tag
    }

    /// A ping with the next tag, outside the order.
    pub fn nop(&mut self) -> NopOut {
        let (tag, number) = (self.tag, self.number);
        self.tag += 1;
        let (lun, expected) = (0, Serial(0));
        NopOut { immediate: true, lun, tag, target_tag: NO_TAG, number, expected }
    }

    /// Sends a ping and waits for its answer, which must be the next message.
    pub async fn ping(&mut self) -> Numbers {
        let nop = self.nop();
        self.send(&Request::NopOut(nop), b"are you there").await;
        let (response, numbers, data) = self.receive().await;
        assert_eq!(response, Response::NopIn { lun: 0, tag: nop.tag, target_tag: NO_TAG });
        assert_eq!(data, b"are you there");
        numbers
    }
}

/// Limits with short times, for tests of what happens when they are over.
pub fn impatient() -> Limits {
    let mut limits = Limits::default();
    limits.login_timeout = Duration::from_millis(300);
    limits.stall_timeout = Duration::from_millis(300);
    limits.max_sessions = 2;
    limits
}
