use minicbor::Decoder;

use crate::cose::PublicKey;
use crate::flaw::Flaw;

/// The most bytes of authenticator data: an id, an RSA key and extensions.
pub const AUTHENTICATOR_DATA: usize = 8 << 10;
/// The most bytes that the id of a passkey has (§5.8.3 and §7.1).
pub const CREDENTIAL_ID: usize = 1023;

const PRESENT: u8 = 1;
const VERIFIED: u8 = 1 << 2;
const BACKUP_ELIGIBLE: u8 = 1 << 3;
const BACKED_UP: u8 = 1 << 4;
const ATTESTED: u8 = 1 << 6;
const EXTENSIONS: u8 = 1 << 7;

/// What an authenticator says about itself and its use (§6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthenticatorData<'b> {
    /// SHA-256 of the relying party's id.
    pub party: [u8; 32],
    /// Somebody has touched it.
    pub present: bool,
    /// It has made sure who uses it.
    pub verified: bool,
    /// The passkey may be copied to other devices.
    pub backup_eligible: bool,
    /// It is.
    pub backed_up: bool,
    /// Grows with every use, or is always 0.
    pub counter: u32,
    /// The passkey that was just made.
    pub attested: Option<Attested<'b>>,
}

/// A passkey that was just made (§6.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attested<'b> {
    /// Make and model, or zeroes.
    pub model: [u8; 16],
    /// The passkey's id, 1 to [`CREDENTIAL_ID`] bytes.
    pub id: &'b [u8],
    /// Its public key.
    pub key: PublicKey<'b>,
    /// The same as it came.
    pub key_bytes: &'b [u8],
}

fn take<'b, const N: usize>(rest: &mut &'b [u8]) -> Result<&'b [u8; N], Flaw> {
    let (first, others) = rest.split_first_chunk().ok_or(Flaw::Shape)?;
    *rest = others;
    Ok(first)
}

impl<'b> AuthenticatorData<'b> {
    /// Reads it, to its last byte.
    ///
    /// # Errors
    /// [`Flaw::TooLarge`], [`Flaw::Shape`], and [`Flaw::Key`] for a key that is not taken.
    pub fn decode(bytes: &'b [u8]) -> Result<Self, Flaw> {
        if bytes.len() > AUTHENTICATOR_DATA {
            return Err(Flaw::TooLarge);
        }
        let mut rest = bytes;
        let party = *take(&mut rest)?;
        let [flags] = *take(&mut rest)?;
        let counter = u32::from_be_bytes(*take(&mut rest)?);
        let is = |flag: u8| flags & flag != 0;
        let attested = if is(ATTESTED) { Some(attested(&mut rest)?) } else { None };
        if is(EXTENSIONS) {
            rest = after_map(rest)?;
        }
        // What cannot be copied is not copied.
        if !rest.is_empty() || (is(BACKED_UP) && !is(BACKUP_ELIGIBLE)) {
            return Err(Flaw::Shape);
        }
        Ok(Self {
            party,
            present: is(PRESENT),
            verified: is(VERIFIED),
            backup_eligible: is(BACKUP_ELIGIBLE),
            backed_up: is(BACKED_UP),
            counter,
            attested,
        })
    }
}

fn attested<'b>(rest: &mut &'b [u8]) -> Result<Attested<'b>, Flaw> {
    let model = *take(rest)?;
    let length = usize::from(u16::from_be_bytes(*take(rest)?));
    if !(1..=CREDENTIAL_ID).contains(&length) {
        return Err(Flaw::Shape);
    }
    let (id, behind) = rest.split_at_checked(length).ok_or(Flaw::Shape)?;
    let mut decoder = Decoder::new(behind);
    let key = PublicKey::read(&mut decoder)?;
    let (key_bytes, behind) = behind.split_at_checked(decoder.position()).ok_or(Flaw::Shape)?;
    *rest = behind;
    Ok(Attested { model, id, key, key_bytes })
}

/// What comes behind the extensions, of which we use none.
fn after_map(bytes: &[u8]) -> Result<&[u8], Flaw> {
    let mut decoder = Decoder::new(bytes);
    let pairs = decoder.map().map_err(|_| Flaw::Shape)?.ok_or(Flaw::Shape)?;
    for _ in 0..pairs {
        decoder.str().map_err(|_| Flaw::Shape)?;
        decoder.skip().map_err(|_| Flaw::Shape)?;
    }
    bytes.get(decoder.position()..).ok_or(Flaw::Shape)
}
