use aws_lc_rs::constant_time::verify_slices_are_equal;
use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;

use crate::flaw::Flaw;
use crate::relying_party::RelyingParty;

/// The most bytes that client data has. Browsers need a few hundred.
pub const CLIENT_DATA: usize = 8 << 10;

/// What a browser says about the page that has asked (§5.8.1).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientData {
    r#type: String,
    challenge: String,
    origin: String,
    #[serde(default)]
    cross_origin: bool,
    #[serde(default)]
    top_origin: Option<String>,
}

impl ClientData {
    /// Reads it. Members that we do not know are passed over: there will be more of them.
    ///
    /// # Errors
    /// [`Flaw::TooLarge`], [`Flaw::Shape`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Flaw> {
        if bytes.len() > CLIENT_DATA {
            return Err(Flaw::TooLarge);
        }
        serde_json::from_slice(bytes).map_err(|_| Flaw::Shape)
    }

    /// Whether it is the answer to what was asked, from where it was asked.
    pub(crate) fn check(
        &self,
        r#type: &str,
        challenge: &[u8],
        party: &RelyingParty,
    ) -> Result<(), Flaw> {
        if self.r#type != r#type {
            return Err(Flaw::Type);
        }
        let answered =
            BASE64URL_NOPAD.decode(self.challenge.as_bytes()).map_err(|_| Flaw::Shape)?;
        verify_slices_are_equal(&answered, challenge).map_err(|_| Flaw::Challenge)?;
        if self.origin != party.origin() {
            return Err(Flaw::Origin);
        }
        if self.cross_origin || self.top_origin.is_some() {
            return Err(Flaw::CrossOrigin);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), Flaw> {
        let party = RelyingParty::of_url("https://example.org:9390").unwrap();
        ClientData::decode(text.as_bytes())?.check("webauthn.get", b"0123", &party)
    }

    #[test]
    fn each_member_must_be_what_was_asked() {
        let text = |kind: &str, challenge: &str, origin: &str, more: &str| {
            let challenge = BASE64URL_NOPAD.encode(challenge.as_bytes());
            format!(r#"{{"type":"{kind}","challenge":"{challenge}","origin":"{origin}"{more}}}"#)
        };
        let (get, own) = ("webauthn.get", "https://example.org:9390");
        assert_eq!(check(&text(get, "0123", own, "")), Ok(()));
        assert_eq!(check(&text(get, "0123", own, r#","crossOrigin":false,"new":[1]"#)), Ok(()));
        assert_eq!(check(&text("webauthn.create", "0123", own, "")), Err(Flaw::Type));
        assert_eq!(check(&text(get, "0124", own, "")), Err(Flaw::Challenge));
        assert_eq!(check(&text(get, "", own, "")), Err(Flaw::Challenge));
        for origin in [
            "https://example.org",
            "http://example.org:9390",
            "https://example.org:9390/",
            "https://www.example.org:9390",
            "https://example.org.evil.example:9390",
            "https://EXAMPLE.org:9390",
            "null",
        ] {
            assert_eq!(check(&text(get, "0123", origin, "")), Err(Flaw::Origin), "{origin}");
        }
        let framed = [r#","crossOrigin":true"#, r#","topOrigin":"https://example.org:9390""#];
        for more in framed {
            assert_eq!(check(&text(get, "0123", own, more)), Err(Flaw::CrossOrigin), "{more}");
        }
        let twice = r#","origin":"https://example.org:9390""#;
        assert_eq!(check(&text(get, "0123", "https://evil.example", twice)), Err(Flaw::Shape));
        for odd in ["", "{}", "[]", "{\"type\":1}", "\u{feff}{}"] {
            assert_eq!(check(odd), Err(Flaw::Shape), "{odd}");
        }
        let long = format!(r#","extra":"{}""#, "x".repeat(CLIENT_DATA));
        assert_eq!(check(&text(get, "0123", own, &long)), Err(Flaw::TooLarge));
    }
}
