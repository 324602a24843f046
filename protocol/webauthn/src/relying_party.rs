use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};

/// Who asks for passkeys: a host, and the one origin that pages have there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelyingParty {
    id: String,
    origin: String,
}

/// Why a URL names no relying party.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRelyingParty {
    /// It is no URL of a host alone.
    #[error("a public URL is https://HOST or https://HOST:PORT")]
    Shape,
    /// It has an address where browsers want a name.
    #[error("passkeys need a host name, and the public URL has an IP address")]
    Address,
}

impl RelyingParty {
    /// The host of a public URL.
    ///
    /// # Errors
    /// [`NoRelyingParty`] when browsers would refuse to make passkeys there.
    pub fn of_url(url: &str) -> Result<Self, NoRelyingParty> {
        let lower = url.to_ascii_lowercase();
        let rest = lower.strip_prefix("https://").ok_or(NoRelyingParty::Shape)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if let Some(address) = authority.strip_prefix('[') {
            let closed = address.split_once(']').is_some_and(|(address, port)| {
                address.parse::<IpAddr>().is_ok() && (port.is_empty() || port.starts_with(':'))
            });
            let flaw = if closed { NoRelyingParty::Address } else { NoRelyingParty::Shape };
            return Err(flaw);
        }
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port_of(port).ok_or(NoRelyingParty::Shape)?)),
            None => (authority, None),
        };
        if host.parse::<IpAddr>().is_ok() {
            return Err(NoRelyingParty::Address);
        }
        if host.len() > 253 || !host.split('.').all(is_label) {
            return Err(NoRelyingParty::Shape);
        }
        // Browsers leave the usual port out.
        let origin = match port.filter(|port| *port != 443) {
            Some(port) => format!("https://{host}:{port}"),
            None => format!("https://{host}"),
        };
        Ok(Self { id: host.to_owned(), origin })
    }

    /// The host, to which passkeys belong.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Scheme, host and port, as browsers tell them.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// What authenticators know of it.
    pub(crate) fn is(&self, hash: &[u8; 32]) -> bool {
        digest(&SHA256, self.id.as_bytes()).as_ref() == hash
    }
}

fn port_of(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

/// Whether browsers take it as a part of a name; names in other letters come as `xn--...`.
fn is_label(label: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&label.len())
        && label.bytes().all(inside)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_browsers_make_of_the_url() {
        let (id, usual) = ("backup.example.org", "https://backup.example.org");
        let ported = "https://backup.example.org:9390";
        for (url, id, origin) in [
            ("https://backup.example.org", id, usual),
            ("https://Backup.Example.org:443/", id, usual),
            ("https://backup.example.org:9390", id, ported),
            ("HTTPS://localhost:9390/", "localhost", "https://localhost:9390"),
        ] {
            let party = RelyingParty::of_url(url).unwrap();
            assert_eq!((party.id(), party.origin()), (id, origin), "{url}");
        }
    }

    #[test]
    fn what_is_no_name_of_a_host_is_refused() {
        for url in ["https://192.0.2.7:9390", "https://[2001:db8::7]", "https://[2001:db8::7]:1/"] {
            assert_eq!(RelyingParty::of_url(url), Err(NoRelyingParty::Address), "{url}");
        }
        for url in [
            "",
            "https://",
            "http://backup.example.org",
            "backup.example.org",
            "https://backup.example.org/sluice",
            "https://user@backup.example.org",
            "https://backup.example.org:",
            "https://backup.example.org:99999",
            "https://backup.example.org:0",
            "https://backup.example.org:+1",
            "https://.example.org",
            "https://-a.example.org",
            "https://a b",
            "https://bäckup.example.org",
            "https://[x]",
            "https://[::1]x",
            "https://a?b",
        ] {
            assert_eq!(RelyingParty::of_url(url), Err(NoRelyingParty::Shape), "{url}");
        }
    }
}
