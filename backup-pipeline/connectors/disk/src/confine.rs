//! Keeping a process to the files that an image consists of.
//!
//! A header is looked at here and read again by `qemu-nbd`; in between its guest may have written
//! another one, which names any file of this machine. So
//!
//! * the process runs in a Landlock domain in which it can open only the files that were looked
//!   at, its own folder, and what programs need to run; it cannot connect to anything. Kernels
//!   before 5.13, and those without Landlock, do not confine: then only the second holds;
//! * before a byte of it is used, what it has open is held against these files ([`check`]).
//!   Whatever else is there ends it.

use std::collections::HashSet;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::fs::makedev;
use tokio::process::{Child, Command};

use crate::DiskError;
use crate::inspect::Inspected;
use crate::spot::{FileId, Spot};

/// The newest rights that are asked for; older kernels take what they know.
const RIGHTS: ABI = ABI::V6;
/// Where programs and their libraries lie.
const PROGRAMS: [&str; 14] = [
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/local/lib",
    "/nix/store",
    "/gnu/store",
];
/// What else they read when they start, and of what the machine and its devices can do.
const READ: [&str; 6] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/dev/urandom",
    "/proc/sys/vm/max_map_count",
    "/sys/dev",
    "/sys/devices",
];
/// Devices that hold nothing of anybody: null, random, urandom.
const HARMLESS: [(u32, u32); 3] = [(1, 3), (1, 8), (1, 9)];
/// Where kernels tell which descriptors programs inherit.
const CLOSED_BY_EXEC: u32 = 0o2_000_000;

/// Whether a process is confined by the kernel. The other way is that of old kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confine {
    Yes,
    #[cfg(test)]
    No,
}

/// Starts a process that can open the files of an image and those in `folder`, and no others.
pub(crate) async fn spawn(
    mut command: Command,
    image: &Inspected,
    folder: &Path,
    confine: Confine,
) -> Result<Child, DiskError> {
    let mut spots = Vec::with_capacity(image.files.len());
    for (path, id) in image.known() {
        let spot = Spot::find(path).map_err(|error| DiskError::Io(path.to_owned(), error))?;
        if spot.id() != id {
            return Err(DiskError::Changed(path.to_owned()));
        }
        spots.push(spot);
    }
    let program = PathBuf::from(command.as_std().get_program());
    let (folder, runtime) = (folder.to_owned(), tokio::runtime::Handle::current());
    // A domain holds for the thread that enters it and what that starts, for ever: so for a thread
    // that ends here.
    let (tell, told) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("confined".to_owned()).spawn(move || {
        if confine == Confine::Yes {
            match restrict(&spots, &folder, &program) {
                Ok(RulesetStatus::NotEnforced) => tracing::debug!("this kernel has no Landlock"),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "processes are not confined"),
            }
        }
        let _runtime = runtime.enter();
        let _ = tell.send(command.spawn());
    });
    thread.map_err(|error| DiskError::Task(error.to_string()))?;
    let spawned = told.await.map_err(|error| DiskError::Task(error.to_string()))?;
    spawned.map_err(DiskError::NoQemu)
}

/// Whether this kernel confines, for tests.
#[cfg(test)]
pub(crate) fn is_possible() -> bool {
    let restrict = || restrict(&[], Path::new("/nonexistent"), Path::new("none"));
    let status = std::thread::spawn(restrict).join().unwrap();
    status.is_ok_and(|status| status != RulesetStatus::NotEnforced)
}

/// Confines this thread.
fn restrict(spots: &[Spot], folder: &Path, program: &Path) -> Result<RulesetStatus, RulesetError> {
    let run = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute;
    let own = places_of(program);
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(RIGHTS))?
        .handle_access(AccessNet::from_all(RIGHTS))?
        .scope(Scope::from_all(RIGHTS))?
        .create()?
        .add_rules(path_beneath_rules(PROGRAMS, run))?
        .add_rules(path_beneath_rules(own, run))?
        .add_rules(path_beneath_rules(READ, AccessFs::ReadFile | AccessFs::ReadDir))?
        .add_rules(path_beneath_rules(["/dev/null"], AccessFs::ReadFile | AccessFs::WriteFile))?
        .add_rules(path_beneath_rules([folder], AccessFs::from_all(RIGHTS)))?;
    for spot in spots {
        let access = match spot.is_block_device() {
            true => AccessFs::ReadFile | AccessFs::IoctlDev,
            false => AccessFs::ReadFile.into(),
        };
        rules = rules.add_rule(PathBeneath::new(spot, access))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// A program of this name in all folders for programs, and where the libraries beside it lie.
fn places_of(program: &Path) -> Vec<PathBuf> {
    let folders = |name: &str| {
        let text = std::env::var_os(name).unwrap_or_default();
        std::env::split_paths(&text).filter(|one| one.is_absolute()).collect::<Vec<_>>()
    };
    let mut places = folders("LD_LIBRARY_PATH");
    for path in folders("PATH").into_iter().map(|folder| folder.join(program)) {
        let Ok(real) = std::fs::canonicalize(&path) else { continue };
        if let Some(around) =
            real.parent().and_then(Path::parent).filter(|one| *one != Path::new("/"))
        {
            places.extend(["lib", "lib64"].map(|name| around.join(name)));
        }
        places.push(real);
    }
    places
}

/// What the processes that are started from here have open from their beginning on.
pub(crate) fn inherited() -> io::Result<HashSet<(String, FileId)>> {
    let mut found = HashSet::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let Ok(number) = entry.file_name().into_string() else { continue };
        // Others are opened and closed meanwhile, by other threads.
        let Ok(text) = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")) else {
            continue;
        };
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        if flags.is_none_or(|flags| flags & CLOSED_BY_EXEC != 0) {
            continue;
        }
        if let Ok(about) = std::fs::metadata(entry.path()) {
            found.insert((number, FileId::of(&about)));
        }
    }
    Ok(found)
}

/// Looks at all that a process has open; returns what is none of the files of an image, nor its
/// connections at `socket`, nor what it had from its beginning on.
///
/// # Errors
/// When that cannot be told.
pub(crate) fn check(
    process: u32,
    image: &Inspected,
    socket: &Path,
    inherited: &HashSet<(String, FileId)>,
) -> io::Result<Option<String>> {
    let files: HashSet<FileId> = image.known().map(|(_, id)| id).collect();
    let sockets = connections(process, socket)?;
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        let entry = entry?;
        let number = entry.file_name().to_string_lossy().into_owned();
        let (link, about) = match (std::fs::read_link(entry.path()), entry.path().metadata()) {
            (Ok(link), Ok(about)) => (link.to_string_lossy().into_owned(), about),
            // It was closed meanwhile.
            (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                continue;
            }
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let id = FileId::of(&about);
        let known = is_nothing(&link, &about)
            || sockets.contains(&link)
            || (files.contains(&id) && (about.is_file() || about.file_type().is_block_device()))
            || inherited.contains(&(number, id));
        if !known {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// Whether something open holds no bytes of this machine.
fn is_nothing(link: &str, about: &Metadata) -> bool {
    // No path begins so: these have no name that anybody could give.
    let nameless = link.starts_with("anon_inode:") || link.starts_with("pipe:[");
    let harmless = HARMLESS.iter().any(|(major, minor)| about.rdev() == makedev(*major, *minor));
    nameless || (about.file_type().is_char_device() && harmless)
}

/// The sockets of a process that listen at a path, or were accepted there, as links name them.
fn connections(process: u32, socket: &Path) -> io::Result<HashSet<String>> {
    let table = std::fs::read(format!("/proc/{process}/net/unix"))?;
    let table = String::from_utf8_lossy(&table);
    let (end, mut found) = (format!(" {}", socket.display()), HashSet::new());
    for line in table.lines().filter(|line| line.ends_with(&end)) {
        // Num RefCount Protocol Flags Type St Inode Path
        found.extend(line.split_ascii_whitespace().nth(6).map(|inode| format!("socket:[{inode}]")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::inspect::inspect;

    #[test]
    fn whatever_else_a_process_has_open_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| std::fs::canonicalize(folder.path()).unwrap().join(name);
        for name in ["disk.raw", "secret"] {
            std::fs::write(at(name), [7; 4096]).unwrap();
        }
        let image = inspect(&at("disk.raw"), None).unwrap();
        let from_outside = inherited().unwrap();
        // What a process finds that has this open.
        let found = |open: OwnedFd| {
            let id = FileId::of(&File::from(open.try_clone().unwrap()).metadata().unwrap());
            // It speaks once nothing of its beginning is open any more, as libraries are.
            let mut child = Command::new("sh")
                .args(["-c", "echo here >&2; kill -STOP $$"])
                .stdin(open)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stderr.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
            let look = |known| check(child.id(), &image, &at("socket"), known).unwrap();
            let found = look(&from_outside);
            let had = from_outside.iter().cloned().chain([("0".to_owned(), id)]).collect();
            let with_it = look(&had);
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(with_it, None, "it had that from its beginning on");
            found
        };
        assert_eq!(found(File::open(at("disk.raw")).unwrap().into()), None);
        let secret = found(File::open(at("secret")).unwrap().into());
        assert_eq!(secret.as_deref(), at("secret").to_str());
        assert!(found(File::open(at("")).unwrap().into()).is_some(), "a folder");
        assert!(found(File::open("/dev/zero").unwrap().into()).is_some(), "a device");
        let listener = UnixListener::bind(at("socket")).unwrap();
        let client = UnixStream::connect(at("socket")).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!((found(listener.into()), found(accepted.into())), (None, None));
        let client = found(client.into()).unwrap();
        assert!(client.starts_with("socket:["), "it leads elsewhere: {client}");
    }
}
