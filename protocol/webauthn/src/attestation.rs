use minicbor::Decoder;

use crate::flaw::Flaw;

/// The most bytes of an attestation object: with the certificates of a TPM it has four thousand.
pub const ATTESTATION: usize = 32 << 10;

/// What comes with a new passkey (§6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttestationObject<'b> {
    /// The kind of the statement about the authenticator's make.
    pub format: &'b str,
    /// What the authenticator has signed with the new key itself: algorithm and signature. Other
    /// statements are passed over.
    pub own: Option<(i64, &'b [u8])>,
    /// The signed bytes.
    pub authenticator_data: &'b [u8],
}

impl<'b> AttestationObject<'b> {
    /// Reads it, to its last byte.
    ///
    /// # Errors
    /// [`Flaw::TooLarge`], [`Flaw::Shape`].
    pub fn decode(bytes: &'b [u8]) -> Result<Self, Flaw> {
        if bytes.len() > ATTESTATION {
            return Err(Flaw::TooLarge);
        }
        let mut decoder = Decoder::new(bytes);
        let object = read(&mut decoder).ok_or(Flaw::Shape)?;
        if decoder.position() == bytes.len() { Ok(object) } else { Err(Flaw::Shape) }
    }
}

fn read<'b>(decoder: &mut Decoder<'b>) -> Option<AttestationObject<'b>> {
    let (mut format, mut statement, mut data) = (None, None, None);
    let input = decoder.input();
    if decoder.map().ok()?? != 3 {
        return None;
    }
    for _ in 0..3 {
        let twice = match decoder.str().ok()? {
            "fmt" => format.replace(decoder.str().ok()?).is_some(),
            "authData" => data.replace(decoder.bytes().ok()?).is_some(),
            "attStmt" => {
                let begin = decoder.position();
                decoder.skip().ok()?;
                statement.replace(input.get(begin..decoder.position())?).is_some()
            }
            _ => return None,
        };
        if twice {
            return None;
        }
    }
    let (format, statement) = (format?, statement?);
    let own = if format == "packed" { own(statement)? } else { None };
    Some(AttestationObject { format, own, authenticator_data: data? })
}

/// The parts of a `packed` statement without a certificate (§8.2).
fn own(statement: &[u8]) -> Option<Option<(i64, &[u8])>> {
    let mut decoder = Decoder::new(statement);
    let (mut algorithm, mut signature, mut certified) = (None, None, false);
    for _ in 0..decoder.map().ok()?? {
        match decoder.str().ok()? {
            "alg" => algorithm = Some(decoder.i64().ok()?),
            "sig" => signature = Some(decoder.bytes().ok()?),
            word => {
                certified |= word == "x5c";
                decoder.skip().ok()?;
            }
        }
    }
    let parts = (algorithm?, signature?);
    Some((!certified).then_some(parts))
}
