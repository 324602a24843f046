//! Encryption of connections: certificates and pre-shared keys ("TLS support").
//!
//! TLS 1.3 is spoken, and under certificates 1.2 as well: `nbd-client` knows no other. All ciphers
//! are authenticated, and there is always a key exchange, so that a key that is lost later opens
//! no recorded session. For the sake of that, pre-shared keys are for 1.3 only.

use std::fmt;
use std::sync::Arc;

use s2n_tls::callbacks::VerifyHostNameCallback;
use s2n_tls::config::Config;
use s2n_tls::connection::{Builder, Connection};
use s2n_tls::enums::{ClientAuthType, Mode, PskHmac};
use s2n_tls::error::Error as S2nError;
use s2n_tls::psk::Psk;
use s2n_tls::security::Policy;
use s2n_tls_tokio::{TlsAcceptor, TlsStream};
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

use crate::tls_error::TlsError;

/// TLS 1.2 and 1.3, with AES-GCM (in 1.3 also ChaCha20-Poly1305), and elliptic curves.
const POLICY: &str = "20251014";
/// Longest delay, in seconds, before a connection that failed to prove itself is closed. Delays
/// hide what the ciphers of old leak through time; none of these is spoken.
const BLINDING: u32 = 1;
/// Users in a key file. Each connection is told all of them.
const MOST_USERS: usize = 1024;
/// Bytes of a key: 128 bits, at least, and what clients take, at most.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=256;
/// Bytes of a user's name: what clients take.
const MOST_NAME: usize = 128;

/// Whether connections are encrypted.
#[derive(Debug, Clone, Default)]
pub enum Encryption {
    /// Never; clients that ask for it are told so.
    #[default]
    Off,
    /// When the client asks for it.
    Offered(Tls),
    /// Always: until it is encrypted, a connection learns nothing and opens nothing.
    Required(Tls),
}

/// What a server proves itself with, and asks its clients for.
#[derive(Clone)]
pub struct Tls {
    config: Config,
    keys: Arc<Vec<Psk>>,
}

impl Tls {
    /// Starts without any credentials.
    pub fn builder() -> TlsBuilder {
        TlsBuilder::default()
    }

    /// Takes a connection over from the moment the client was told to go ahead.
    pub(crate) async fn accept<S>(&self, stream: S) -> Result<TlsStream<S>, S2nError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        TlsAcceptor::new(self.clone()).accept(stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Collects the credentials of a server.
#[derive(Default)]
pub struct TlsBuilder {
    certificate: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    client_ca: Option<Vec<u8>>,
    keys: Vec<(String, Zeroizing<Vec<u8>>)>,
}

impl TlsBuilder {
    /// Proves the server by a certificate (with what leads to its authority) and its key, in PEM.
    #[must_use]
    pub fn certificate(mut self, chain: Vec<u8>, key: Zeroizing<Vec<u8>>) -> Self {
        self.certificate = Some((chain, key));
        self
    }

    /// Asks clients for a certificate that leads to one of these authorities, in PEM. Clients
    /// with a pre-shared key need none.
    #[must_use]
    pub fn client_authorities(mut self, authorities: Vec<u8>) -> Self {
        self.client_ca = Some(authorities);
        self
    }

    /// Lets in clients that have one of these keys: lines of a user's name, a colon, and a key of
    /// 16 bytes or more in hexadecimal digits, as `psktool` writes them. Empty lines and those
    /// that begin with `#` are skipped.
    ///
    /// # Errors
    /// [`TlsError::KeyFile`] names the first line that is wrong, and not what is in it.
    pub fn keys(mut self, text: &str) -> Result<Self, TlsError> {
        let refused = |line, problem| TlsError::KeyFile { line, problem };
        for (index, line) in text.lines().enumerate() {
            let (number, line) = (index + 1, line.trim_end_matches('\r'));
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (user, digits) =
                line.rsplit_once(':').ok_or(refused(number, "there is no colon"))?;
            if user.is_empty() || user.len() > MOST_NAME {
                return Err(refused(number, "the name is empty or too long"));
            }
            let key = hexadecimal(digits).ok_or(refused(number, "the key is not hexadecimal"))?;
            if !KEY_BYTES.contains(&key.len()) {
                return Err(refused(number, "the key has not 16 to 256 bytes"));
            }
            if self.keys.iter().any(|(other, _)| other == user) {
                return Err(refused(number, "the name was there before"));
            }
            if self.keys.len() == MOST_USERS {
                return Err(refused(number, "there are more than 1024 users"));
            }
            self.keys.push((user.to_owned(), key));
        }
        if self.keys.is_empty() {
            return Err(refused(0, "there is no key in it"));
        }
        Ok(self)
    }

    /// Checks that everything fits together.
    ///
    /// # Errors
    /// [`TlsError`] says what does not.
    pub fn build(self) -> Result<Tls, TlsError> {
        if self.certificate.is_none() && self.keys.is_empty() {
            return Err(TlsError::NoCredentials);
        }
        if self.certificate.is_none() && self.client_ca.is_some() {
            return Err(TlsError::NoCertificate);
        }
        let set_up = |source| TlsError::SetUp { source };
        let policy = Policy::from_version(POLICY).map_err(set_up)?;
        let mut config = Config::builder();
        config.set_security_policy(&policy).map_err(set_up)?;
        config.set_max_blinding_delay(BLINDING).map_err(set_up)?;
        // Who else this machine trusts has no business here.
        config.with_system_certs(false).map_err(set_up)?;
        if let Some((chain, key)) = &self.certificate {
            config.load_pem(chain, key).map_err(|source| TlsError::Certificate { source })?;
        }
        if let Some(authorities) = &self.client_ca {
            let refused = |source| TlsError::Authorities { source };
            config.trust_pem(authorities).map_err(refused)?;
        }
        // Who shows a key is not asked for a certificate. Where there are keys and no authorities,
        // no certificate is good enough: the server's own must not let in who has no key.
        if self.client_ca.is_some() || !self.keys.is_empty() {
            config.set_client_auth_type(ClientAuthType::Required).map_err(set_up)?;
            config.set_verify_host_callback(AnyName).map_err(set_up)?;
        }
        let keys: Result<Vec<Psk>, S2nError> =
            self.keys.iter().map(|(user, key)| pre_shared(user, key)).collect();
        let keys = Arc::new(keys.map_err(set_up)?);
        Ok(Tls { config: config.build().map_err(set_up)?, keys })
    }
}

impl fmt::Debug for TlsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsBuilder").finish_non_exhaustive()
    }
}

/// Clients prove by their authority that they may connect; what they are called does not matter.
struct AnyName;

impl VerifyHostNameCallback for AnyName {
    fn verify_host_name(&self, _: &str) -> bool {
        true
    }
}

impl Builder for Tls {
    type Output = Connection;

    fn build_connection(&self, mode: Mode) -> Result<Connection, S2nError> {
        let mut connection = self.config.build_connection(mode)?;
        for key in self.keys.iter() {
            connection.append_psk(key)?;
        }
        Ok(connection)
    }
}

fn pre_shared(user: &str, key: &[u8]) -> Result<Psk, S2nError> {
    let mut psk = Psk::builder()?;
    psk.set_identity(user.as_bytes())?;
    psk.set_secret(key)?;
    // What an external key means when nothing else is agreed (RFC 8446, 4.2.11).
    psk.set_hmac(PskHmac::SHA256)?;
    psk.build()
}

fn hexadecimal(digits: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = digits.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| match pair {
            // Two digits of four bits make eight.
            [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
            _ => None,
        })
        .collect();
    bytes.map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "00112233445566778899aabbccddeeff";

    #[test]
    fn key_files_are_those_of_psktool() {
        let text = format!("# keys\n\nhost-1:{KEY}\nhost:2:{}\r\n", KEY.to_uppercase());
        let builder = Tls::builder().keys(&text).unwrap();
        let names: Vec<_> = builder.keys.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["host-1", "host:2"]);
        assert_eq!(builder.keys[0].1[..3], [0, 0x11, 0x22]);
        assert_eq!(builder.keys[0].1, builder.keys[1].1);
        builder.build().unwrap();
    }

    #[test]
    fn wrong_key_files_are_refused_by_line_and_not_shown() {
        for (text, wrong) in [
            ("", 0),
            ("# nothing", 0),
            ("no colon", 1),
            (":00112233445566778899aabbccddeeff", 1),
            ("\na:00112233445566778899aabbccddee", 2),
            ("a:00112233445566778899aabbccddeef", 1),
            ("a:zz112233445566778899aabbccddeeff", 1),
            ("a:00112233445566778899aabbccddeeff\na:00112233445566778899aabbccddeeff", 2),
        ] {
            let error = Tls::builder().keys(text).unwrap_err();
            assert!(matches!(error, TlsError::KeyFile { line, .. } if line == wrong), "{text:?}");
            assert!(!error.to_string().contains("0011"), "{error}");
        }
    }

    #[test]
    fn credentials_must_fit_together() {
        assert!(matches!(Tls::builder().build(), Err(TlsError::NoCredentials)));
        let authorities = Tls::builder().keys(&format!("a:{KEY}")).unwrap();
        let built = authorities.client_authorities(b"x".to_vec()).build();
        assert!(matches!(built, Err(TlsError::NoCertificate)));
        let nonsense = Tls::builder().certificate(b"x".to_vec(), b"y".to_vec().into()).build();
        assert!(matches!(nonsense, Err(TlsError::Certificate { .. })));
    }
}
