//! The bytes of SFTP version 3 (draft-ietf-secsh-filexfer-02) with OpenSSH's extensions.
//!
//! Everything a server sends is read here, without a connection: no length is believed before
//! the bytes are there.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

/// The largest packet a server may send, in bytes; OpenSSH sends no larger ones.
pub(super) const MAX_PACKET: u32 = 256 << 10;

/// The most bytes one read asks for, or one write sends: what every server takes.
pub(super) const CHUNK: usize = 32 << 10;

const VERSION: u32 = 3;

/// What a request asks for, with its paths.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ask<'a> {
    /// Opens a file or, to make it durable, a folder for reading.
    OpenRead(&'a str),
    /// Creates a file that must not exist, and opens it for writing.
    Create(&'a str),
    Close(&'a [u8]),
    Read {
        handle: &'a [u8],
        offset: u64,
        length: u32,
    },
    /// The body follows the request's bytes.
    Write {
        handle: &'a [u8],
        offset: u64,
        length: u32,
    },
    /// What a name is, without following a link.
    LStat(&'a str),
    /// What a name is, at the end of links.
    Stat(&'a str),
    FStat(&'a [u8]),
    OpenFolder(&'a str),
    ReadFolder(&'a [u8]),
    Remove(&'a str),
    MakeFolder(&'a str),
    RealPath(&'a str),
    /// Gives a name that must not be taken.
    Rename(&'a str, &'a str),
    /// Gives a name and replaces what has it.
    Replace(&'a str, &'a str),
    /// Gives a second name that must not be taken, in one step.
    Link(&'a str, &'a str),
    Sync(&'a [u8]),
    /// How much room is left where a name is.
    Volume(&'a str),
}

/// A packet being written.
struct Packet(Vec<u8>);

impl Packet {
    fn new(kind: u8, id: u32) -> Self {
        let mut packet = Self(vec![0, 0, 0, 0, kind]);
        packet.number(id);
        packet
    }

    fn number(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn long(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn text(&mut self, bytes: &[u8]) {
        // Paths and handles are a few hundred bytes.
        self.number(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
    }

    fn texts(mut self, parts: &[&[u8]]) -> Self {
        parts.iter().for_each(|part| self.text(part));
        self
    }

    /// The packet's bytes, with room announced for a body that follows them.
    fn finish(mut self, body: u32) -> Vec<u8> {
        let length = self.0.len() as u32 - 4 + body;
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}

/// The first packet of a session.
pub(super) fn hello() -> Vec<u8> {
    Packet::new(1, VERSION).finish(0)
}

/// A request's bytes.
pub(super) fn request(id: u32, ask: Ask<'_>) -> Vec<u8> {
    let extended = |name: &str, parts: &[&[u8]]| {
        Packet::new(200, id).texts(&[name.as_bytes()]).texts(parts).finish(0)
    };
    let plain = |kind: u8, parts: &[&[u8]]| Packet::new(kind, id).texts(parts).finish(0);
    let open = |path: &str, flags: u32| {
        let mut packet = Packet::new(3, id).texts(&[path.as_bytes()]);
        packet.number(flags);
        packet.number(0);
        packet.finish(0)
    };
    match ask {
        Ask::OpenRead(path) => open(path, 0x01),
        Ask::Create(path) => open(path, 0x02 | 0x08 | 0x20),
        Ask::Close(handle) => plain(4, &[handle]),
        Ask::Read { handle, offset, length } => {
            let mut packet = Packet::new(5, id).texts(&[handle]);
            packet.long(offset);
            packet.number(length);
            packet.finish(0)
        }
        Ask::Write { handle, offset, length } => {
            let mut packet = Packet::new(6, id).texts(&[handle]);
            packet.long(offset);
            packet.number(length);
            packet.finish(length)
        }
        Ask::LStat(path) => plain(7, &[path.as_bytes()]),
        Ask::FStat(handle) => plain(8, &[handle]),
        Ask::OpenFolder(path) => plain(11, &[path.as_bytes()]),
        Ask::ReadFolder(handle) => plain(12, &[handle]),
        Ask::Remove(path) => plain(13, &[path.as_bytes()]),
        Ask::MakeFolder(path) => {
            let mut packet = Packet::new(14, id).texts(&[path.as_bytes()]);
            packet.number(0);
            packet.finish(0)
        }
        Ask::RealPath(path) => plain(16, &[path.as_bytes()]),
        Ask::Stat(path) => plain(17, &[path.as_bytes()]),
        Ask::Rename(from, to) => plain(18, &[from.as_bytes(), to.as_bytes()]),
        Ask::Replace(from, to) => {
            extended("posix-rename@openssh.com", &[from.as_bytes(), to.as_bytes()])
        }
        Ask::Link(from, to) => extended("hardlink@openssh.com", &[from.as_bytes(), to.as_bytes()]),
        Ask::Sync(handle) => extended("fsync@openssh.com", &[handle]),
        Ask::Volume(path) => extended("statvfs@openssh.com", &[path.as_bytes()]),
    }
}

/// What a server can do beyond version 3.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    /// Makes a file durable.
    pub(super) sync: bool,
    /// Replaces a file in one step.
    pub(super) replace: bool,
    /// Makes a hard link.
    pub(super) link: bool,
    /// Tells how much room is left.
    pub(super) volume: bool,
}

/// What a server says about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Status(Status, String),
    Handle(Bytes),
    Data(Bytes),
    Names(Vec<(Vec<u8>, Attributes)>),
    Attributes(Attributes),
    Volume(Volume),
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Done,
    End,
    NoSuchFile,
    Denied,
    /// Anything without a number of its own: the name is taken, no room left, and so on.
    Failure,
    Unsupported,
    Other(u32),
}

/// What is told of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    pub(super) mode: Option<u32>,
    pub(super) modified: Option<u32>,
}

/// What is left of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Volume {
    /// Bytes this user may still write.
    pub(super) free: u64,
    /// No file can be made, however small.
    pub(super) no_names: bool,
}

impl Attributes {
    pub(super) fn is_file(self) -> bool {
        self.mode.is_some_and(|mode| mode & 0o170_000 == 0o100_000)
    }

    pub(super) fn is_folder(self) -> bool {
        self.mode.is_some_and(|mode| mode & 0o170_000 == 0o040_000)
    }

    pub(super) fn time(self) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(self.modified?.into()))
    }
}

/// A packet that no server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// A packet being read.
struct Reader(Bytes);

impl Reader {
    fn take(&mut self, length: usize) -> Result<Bytes, Malformed> {
        if length > self.0.len() { Err(Malformed) } else { Ok(self.0.split_to(length)) }
    }

    fn number(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?;
        <[u8; 4]>::try_from(&bytes[..]).map(u32::from_be_bytes).map_err(|_| Malformed)
    }

    fn long(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from(self.number()?) << 32 | u64::from(self.number()?))
    }

    fn text(&mut self) -> Result<Bytes, Malformed> {
        let length = self.number()?;
        self.take(length as usize)
    }

    fn volume(&mut self) -> Result<Volume, Malformed> {
        // statvfs(3): block size, fragment size, blocks, free ones, those available to this user,
        // and the same of files.
        let mut fields = [0; 8];
        for field in &mut fields {
            *field = self.long()?;
        }
        let [_, fragment, _, _, available, files, _, files_available] = fields;
        let free = fragment.saturating_mul(available);
        // Some file systems count no files.
        Ok(Volume { free, no_names: files > 0 && files_available == 0 })
    }

    fn attributes(&mut self) -> Result<Attributes, Malformed> {
        let flags = self.number()?;
        let mut found = Attributes::default();
        if flags & 0x1 != 0 {
            found.size = Some(self.long()?);
        }
        if flags & 0x2 != 0 {
            self.long()?;
        }
        if flags & 0x4 != 0 {
            found.mode = Some(self.number()?);
        }
        if flags & 0x8 != 0 {
            self.number()?;
            found.modified = Some(self.number()?);
        }
        if flags & 0x8000_0000 != 0 {
            for _ in 0..self.number()? {
                self.text()?;
                self.text()?;
            }
        }
        Ok(found)
    }
}

/// The answer to [`hello`], without its length.
pub(super) fn parse_hello(packet: Bytes) -> Result<Extensions, Malformed> {
    let mut reader = Reader(packet);
    if reader.take(1)?[0] != 2 || reader.number()? != VERSION {
        return Err(Malformed);
    }
    let mut found = Extensions::default();
    while !reader.0.is_empty() {
        let name = reader.text()?;
        reader.text()?;
        match &name[..] {
            b"fsync@openssh.com" => found.sync = true,
            b"posix-rename@openssh.com" => found.replace = true,
            b"hardlink@openssh.com" => found.link = true,
            b"statvfs@openssh.com" => found.volume = true,
            _ => {}
        }
    }
    Ok(found)
}

/// A reply and the request it is for, from a packet without its length.
pub(super) fn parse_reply(packet: Bytes) -> Result<(u32, Reply), Malformed> {
    let mut reader = Reader(packet);
    let kind = reader.take(1)?[0];
    let id = reader.number()?;
    let reply = match kind {
        101 => {
            let status = status(reader.number()?);
            // Old servers end here.
            let words = reader.text().unwrap_or_default();
            Reply::Status(status, plain(&words))
        }
        102 => Reply::Handle(reader.text()?),
        103 => Reply::Data(reader.text()?),
        104 => {
            let mut names = Vec::new();
            for _ in 0..reader.number()? {
                let name = reader.text()?.to_vec();
                reader.text()?;
                names.push((name, reader.attributes()?));
            }
            Reply::Names(names)
        }
        105 => Reply::Attributes(reader.attributes()?),
        // To the only question that is answered so.
        201 => Reply::Volume(reader.volume()?),
        _ => return Err(Malformed),
    };
    Ok((id, reply))
}

fn status(code: u32) -> Status {
    match code {
        0 => Status::Done,
        1 => Status::End,
        2 => Status::NoSuchFile,
        3 => Status::Denied,
        4 => Status::Failure,
        8 => Status::Unsupported,
        other => Status::Other(other),
    }
}

/// A server's words, fit to be printed.
pub(super) fn plain(words: &[u8]) -> String {
    String::from_utf8_lossy(words).chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(parts: &[&[u8]]) -> Bytes {
        Bytes::from(parts.concat())
    }

    #[test]
    fn requests_announce_their_length_and_their_body() {
        assert_eq!(hello(), [0, 0, 0, 5, 1, 0, 0, 0, 3]);
        let read = request(7, Ask::Read { handle: b"h", offset: 1 << 32, length: 9 });
        let wanted = [0, 0, 0, 22, 5, 0, 0, 0, 7, 0, 0, 0, 1, b'h', 0, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(read[..22], wanted);
        assert_eq!(read[22..], [0, 0, 0, 9]);
        let write = request(7, Ask::Write { handle: b"h", offset: 0, length: 100 });
        assert_eq!(write[..4], (write.len() as u32 - 4 + 100).to_be_bytes());
        let link = request(1, Ask::Link("/a", "/b"));
        assert!(link.ends_with(b"\0\0\0\x14hardlink@openssh.com\0\0\0\x02/a\0\0\0\x02/b"));
    }

    #[test]
    fn extensions_are_found_by_name() {
        let text = |text: &[u8]| [&(text.len() as u32).to_be_bytes()[..], text].concat();
        let hello = packet(&[
            &[2, 0, 0, 0, 3],
            &text(b"fsync@openssh.com"),
            &text(b"1"),
            &text(b"other"),
            &text(b"9"),
        ]);
        let found = parse_hello(hello.clone()).unwrap();
        assert_eq!(found, Extensions { sync: true, ..Extensions::default() });
        assert_eq!(parse_hello(hello.slice(..hello.len() - 1)), Err(Malformed));
        assert_eq!(parse_hello(Bytes::from_static(&[2, 0, 0, 0, 6])), Err(Malformed));
    }

    #[test]
    fn replies_are_read_and_cut_ones_refused() {
        let denied = packet(&[&[101, 0, 0, 0, 9, 0, 0, 0, 3, 0, 0, 0, 2], b"no", &[0, 0, 0, 0]]);
        assert_eq!(parse_reply(denied), Ok((9, Reply::Status(Status::Denied, "no".to_owned()))));
        let mode = 0o100_644u32.to_be_bytes();
        let attributes =
            packet(&[&[105, 0, 0, 0, 1, 0, 0, 0, 0xd], &5u64.to_be_bytes(), &mode, &[0; 8]]);
        let (_, reply) = parse_reply(attributes.clone()).unwrap();
        let Reply::Attributes(found) = reply else { panic!("{reply:?}") };
        assert!(found.is_file() && !found.is_folder());
        assert_eq!((found.size, found.time()), (Some(5), Some(SystemTime::UNIX_EPOCH)));
        for cut in 0..attributes.len() {
            assert_eq!(parse_reply(attributes.slice(..cut)), Err(Malformed), "{cut}");
        }
        let fields = [4096u64, 512, 1000, 900, 8, 50, 40, 0, 1, 0, 255];
        let fields: Vec<u8> = fields.iter().flat_map(|field| field.to_be_bytes()).collect();
        let volume = packet(&[&[201, 0, 0, 0, 3], &fields]);
        let wanted = Reply::Volume(Volume { free: 4096, no_names: true });
        assert_eq!(parse_reply(volume.clone()), Ok((3, wanted)));
        assert_eq!(parse_reply(volume.slice(..40)), Err(Malformed));
        // Counts and lengths that are not there are not believed.
        for lie in [&[104, 0, 0, 0, 1, 255, 255, 255, 255][..], &[103, 0, 0, 0, 1, 255, 0, 0, 0]] {
            assert_eq!(parse_reply(Bytes::copy_from_slice(lie)), Err(Malformed));
        }
    }
}
