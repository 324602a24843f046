use crate::field::put;

/// Who a logical unit is: the same over every path and after every restart, or multipath software
/// takes one disk for two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    serial: String,
    naa: u64,
    eui: u64,
}

impl Identity {
    /// The identity that belongs to a digest of whatever makes the logical unit what it is.
    pub fn from_digest(digest: [u8; 32]) -> Self {
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&digest[at..at + 8]);
            u64::from_be_bytes(bytes)
        };
        let serial = digest[16..].iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            serial,
            // NAA 3: assigned locally, without a registered vendor number.
            naa: number(0) >> 4 | 3 << 60,
            // The bit that says "administered locally" is set, the one for groups is not.
            eui: number(8) & !(3 << 56) | 2 << 56,
        }
    }

    /// The unit serial number: 32 hexadecimal digits.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The name by network address authority, as Linux shows it in `/dev/disk/by-id/wwn-0x...`.
    pub fn naa(&self) -> u64 {
        self.naa
    }

    /// The extended unique identifier.
    pub fn eui(&self) -> u64 {
        self.eui
    }
}

/// What a logical unit and its target are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Who the logical unit is.
    pub identity: Identity,
    /// Product, as far as 16 characters go.
    pub product: String,
    /// Product revision, as far as 4 characters go.
    pub revision: String,
    /// The iSCSI name of the target.
    pub target: String,
    /// The portal group through which the question came.
    pub portal_group: u16,
}

/// The vendor field: eight characters.
pub(crate) const VENDOR: &str = "SLUICE";

impl Names {
    /// The content of the device identification page.
    pub(crate) fn descriptors(&self) -> Vec<u8> {
        const BINARY: u8 = 1;
        const ASCII: u8 = 2;
        const UTF8: u8 = 3;
        const ISCSI: u8 = 0x50;
        const PORT: u8 = 0x90;
        const DEVICE: u8 = 0xa0;
        let identity = &self.identity;
        let mut page = Vec::new();
        let mut descriptor = |set: u8, kind: u8, content: &[u8]| {
            let protocol = if kind >= 0x80 { ISCSI } else { 0 };
            page.extend([protocol | set, kind, 0, content.len() as u8]);
            page.extend(content);
        };
        descriptor(BINARY, 3, &identity.naa.to_be_bytes());
        descriptor(BINARY, 2, &identity.eui.to_be_bytes());
        let mut t10 = crate::field::ascii(VENDOR, 8);
        t10.extend(identity.serial.as_bytes());
        descriptor(ASCII, 1, &t10);
        descriptor(BINARY, PORT | 4, &[0, 0, 0, 1]);
        let [high, low] = self.portal_group.to_be_bytes();
        descriptor(BINARY, PORT | 5, &[0, 0, high, low]);
        let port = format!("{},t,0x{:04x}", self.target, self.portal_group);
        descriptor(UTF8, PORT | 8, &name_string(&port));
        descriptor(UTF8, DEVICE | 8, &name_string(&self.target));
        page
    }
}

/// A name with its final zero, padded to a multiple of four.
pub(crate) fn name_string(name: &str) -> Vec<u8> {
    // iSCSI names have at most 223 bytes, so that this fits the length byte.
    let length = (name.len() + 1).next_multiple_of(4).min(252);
    let mut bytes = vec![0; length];
    let cut = name.len().min(length - 1);
    put(&mut bytes, 0, &name.as_bytes()[..cut]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_follow_from_their_digest_and_say_they_are_local() {
        let first = Identity::from_digest([0xff; 32]);
        assert_eq!(first, Identity::from_digest([0xff; 32]));
        assert_eq!(first.naa(), 0x3fff_ffff_ffff_ffff);
        assert_eq!(first.eui(), 0xfeff_ffff_ffff_ffff);
        assert_eq!(first.serial(), "f".repeat(32));
        let mut other = [0xff; 32];
        (other[5], other[12], other[20]) = (0, 0, 0);
        let other = Identity::from_digest(other);
        assert!(other.naa() != first.naa() && other.eui() != first.eui());
        assert_ne!(other.serial(), first.serial());
    }

    #[test]
    fn name_strings_end_with_zero_and_are_padded() {
        assert_eq!(name_string("abc"), b"abc\0");
        assert_eq!(name_string("abcd"), b"abcd\0\0\0\0");
        assert_eq!(name_string(&"x".repeat(300)).len(), 252);
    }
}
