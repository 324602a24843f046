use std::path::{Path, PathBuf};

use crate::key::MAX_KEY;
use crate::url::{DestinationUrl, invalid};
use crate::{Result, Timeouts};

/// The longest path Linux takes, in bytes.
const MAX_PATH: usize = 4095;

/// Which key is used when the URL does not name it.
const KEY_VARIABLE: &str = "SLUICE_SFTP_KEY_FILE";

/// Which servers are known when the URL does not name the file.
const KNOWN_HOSTS_VARIABLE: &str = "SLUICE_SFTP_KNOWN_HOSTS";

/// Where a folder is and how its server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SftpConfig {
    /// Who logs in; else what `~/.ssh/config` says, or the name of who runs this.
    pub user: Option<String>,
    /// The server's name, address, or alias in `~/.ssh/config`.
    pub host: String,
    /// Its port; else what `~/.ssh/config` says, or 22.
    pub port: Option<u16>,
    /// The folder: absolute, or relative to where the user arrives.
    pub root: String,
    /// A file with a private key; else what `ssh` finds, which may be an agent.
    pub key_file: Option<PathBuf>,
    /// The only file with keys of servers to trust; else those of `ssh`.
    pub known_hosts: Option<PathBuf>,
    /// Whether the folder is made when it does not exist.
    pub create: bool,
    /// How long to wait for what.
    pub timeouts: Timeouts,
}

impl SftpConfig {
    /// The configuration a URL describes.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) with what is wrong.
    pub fn from_url(url: &DestinationUrl) -> Result<Self> {
        url.allow_parameters(&["key-file", "known-hosts"])?;
        let (user, place) = match url.authority().rsplit_once('@') {
            Some((user, place)) => (Some(user.to_owned()), place),
            None => (None, url.authority()),
        };
        let (host, port) = split_port(place)?;
        let plain = |text: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
            !text.is_empty() && !text.starts_with('-') && text.bytes().all(fits)
        };
        if !plain(host) || user.as_deref().is_some_and(|user| !plain(user)) {
            return Err(invalid("the URL names no server; write sftp://USER@HOST:PORT/PATH"));
        }
        Ok(Self {
            user,
            host: host.to_owned(),
            port,
            root: check_root(url.path())?,
            key_file: file(url, "key-file", KEY_VARIABLE)?,
            known_hosts: file(url, "known-hosts", KNOWN_HOSTS_VARIABLE)?,
            create: false,
            timeouts: Timeouts::default(),
        })
    }

    /// The URL, without what only this machine knows.
    pub(super) fn location(&self) -> String {
        let user = self.user.as_deref().map(|user| format!("{user}@")).unwrap_or_default();
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        let root = match self.root.strip_prefix('/') {
            Some(root) => root.to_owned(),
            None => format!("~/{}", self.root),
        };
        format!("sftp://{user}{host}{port}/{}", crate::url::encode(&root))
    }

    /// What `ssh` is started with.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["-T".to_owned(), "-x".to_owned(), "-a".to_owned()];
        let connect = self.timeouts.connect.as_secs().max(1);
        let mut option = |text: String| arguments.extend(["-o".to_owned(), text]);
        // Nobody sits there to answer a question.
        option("BatchMode=yes".into());
        option("StrictHostKeyChecking=yes".into());
        option("ClearAllForwardings=yes".into());
        option("PermitLocalCommand=no".into());
        option(format!("ConnectTimeout={connect}"));
        // A dead connection is noticed after about half a minute.
        option("ServerAliveInterval=10".into());
        option("ServerAliveCountMax=3".into());
        if let Some(path) = &self.key_file {
            option(format!("IdentityFile={}", path.display()));
            option("IdentitiesOnly=yes".into());
        }
        if let Some(path) = &self.known_hosts {
            option(format!("UserKnownHostsFile={}", path.display()));
            option("GlobalKnownHostsFile=/dev/null".into());
        }
        if let Some(port) = self.port {
            option(format!("Port={port}"));
        }
        if let Some(user) = &self.user {
            option(format!("User={user}"));
        }
        let subsystem = ["-s", "--", &self.host, "sftp"];
        arguments.extend(subsystem.map(str::to_owned));
        arguments
    }
}

fn split_port(place: &str) -> Result<(&str, Option<u16>)> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, port.strip_prefix(':').or(Some(port))),
            None => return Err(invalid("an address in brackets has no closing bracket")),
        },
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let number = |port: &str| {
        port.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
            invalid(format!("{port:?} is no port; write an IPv6 address in brackets"))
        })
    };
    Ok((host, port.map(number).transpose()?))
}

/// The folder in a URL's path, such that every key below it is a path the server takes.
fn check_root(path: &str) -> Result<String> {
    let root = match path.strip_prefix("/~/") {
        Some(relative) => relative.trim_matches('/').to_owned(),
        None => format!("/{}", path.trim_matches('/')),
    };
    let odd =
        |segment: &str| matches!(segment, "" | "." | "..") || segment.contains(char::is_control);
    let segments = root.strip_prefix('/').unwrap_or(&root);
    if segments.is_empty() || segments.split('/').any(odd) {
        return Err(invalid(
            "the URL names no folder; write sftp://USER@HOST/PATH, or /~/PATH for one below the \
             user's own",
        ));
    }
    if root.len() > MAX_PATH - MAX_KEY - 1 {
        return Err(invalid(format!("the folder's name has {} bytes, too many", root.len())));
    }
    Ok(root)
}

/// A file that the URL or the environment names. `ssh` reads more into some characters.
fn file(url: &DestinationUrl, parameter: &str, variable: &str) -> Result<Option<PathBuf>> {
    let given = || url.variable(variable).filter(|value| !value.is_empty());
    let Some(path) = url.parameter(parameter).map(str::to_owned).or_else(given) else {
        return Ok(None);
    };
    let odd = |c: char| c.is_control() || c.is_whitespace() || "%$\"'\\~#".contains(c);
    if path.is_empty() || path.contains(odd) {
        return Err(invalid(format!(
            "{parameter} {path:?} is not a path that ssh takes literally"
        )));
    }
    if !Path::new(&path).is_file() {
        return Err(invalid(format!("{parameter}: there is no file {path}")));
    }
    Ok(Some(PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<SftpConfig> {
        SftpConfig::from_url(&url.parse()?)
    }

    #[test]
    fn a_url_says_who_where_and_which_folder() {
        for (url, user, host, port, root) in [
            ("sftp://u@h/srv/a", Some("u"), "h", None, "/srv/a"),
            ("sftp://h:2222/srv/", None, "h", Some(2222), "/srv"),
            ("sftp://u@[::1]:22/a", Some("u"), "::1", Some(22), "/a"),
            ("sftp://u@[::1]/~/a/b", Some("u"), "::1", None, "a/b"),
        ] {
            let found = config(url).unwrap();
            let place = (found.user.as_deref(), &*found.host, found.port, &*found.root);
            assert_eq!(place, (user, host, port, root), "{url}");
            assert_eq!(found.location(), url.trim_end_matches('/'));
        }
    }

    #[test]
    fn what_ssh_would_take_for_something_else_is_refused() {
        for bad in [
            "sftp:///srv",
            "sftp://h",
            "sftp://h/",
            "sftp://h/~/",
            "sftp://-oProxyCommand=x/srv",
            "sftp://-l@h/srv",
            "sftp://h:0/srv",
            "sftp://h:x/srv",
            "sftp://::1/srv",
            "sftp://h/a/../b",
            "sftp://h/a?key-file=/does/not/exist",
            "sftp://h/a?key-file=/a%20b",
            "sftp://h/a?known-hosts=%25h",
            "sftp://h/a?password=x",
        ] {
            config(bad).unwrap_err();
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        let message = config("sftp://u:hunter2@h/srv").unwrap_err().to_string();
        assert!(message.contains("no credentials") && !message.contains("hunter2"), "{message}");
    }

    #[test]
    fn servers_must_be_known_and_no_question_is_asked() {
        let arguments = config("sftp://u@h:7/srv").unwrap().arguments().join(" ");
        for part in ["BatchMode=yes", "StrictHostKeyChecking=yes", "Port=7", "-s -- h sftp"] {
            assert!(arguments.contains(part), "{arguments}");
        }
    }
}
