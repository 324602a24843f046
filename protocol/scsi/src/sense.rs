use crate::field::put;

/// What kind of trouble sense data tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SenseKey {
    /// None.
    NoSense,
    /// The logical unit cannot be reached.
    NotReady,
    /// Data on the medium cannot be read or written.
    MediumError,
    /// The device failed.
    HardwareError,
    /// The command is not one that the logical unit can do.
    IllegalRequest,
    /// Something changed that the initiator must know of.
    UnitAttention,
    /// The medium may not be written.
    DataProtect,
    /// The command was ended, and may be tried again.
    AbortedCommand,
    /// Data differs from what it was compared with.
    Miscompare,
}

impl SenseKey {
    fn code(self) -> u8 {
        match self {
            Self::NoSense => 0x0,
            Self::NotReady => 0x2,
            Self::MediumError => 0x3,
            Self::HardwareError => 0x4,
            Self::IllegalRequest => 0x5,
            Self::UnitAttention => 0x6,
            Self::DataProtect => 0x7,
            Self::AbortedCommand => 0xb,
            Self::Miscompare => 0xe,
        }
    }
}

/// Where a command is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fault {
    /// In the command descriptor block, not in its parameters.
    in_command: bool,
    byte: u16,
    bit: Option<u8>,
}

/// Sense data: why a command did not end well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    key: SenseKey,
    code: u16,
    information: Option<u64>,
    fault: Option<Fault>,
}

impl Sense {
    /// Nothing to tell.
    pub const NONE: Self = Self::new(SenseKey::NoSense, 0x0000);
    /// The operation code is not known.
    pub const INVALID_OPCODE: Self = Self::new(SenseKey::IllegalRequest, 0x2000).at(0, None);
    /// A field of the command is invalid.
    pub const INVALID_FIELD: Self = Self::new(SenseKey::IllegalRequest, 0x2400);
    /// A field of the parameters is invalid.
    pub const INVALID_PARAMETER: Self = Self::new(SenseKey::IllegalRequest, 0x2600);
    /// A reservation that is not the initiator's is to be released.
    pub const INVALID_RELEASE: Self = Self::new(SenseKey::IllegalRequest, 0x2604);
    /// The parameters are shorter or longer than they should be.
    pub const PARAMETER_LENGTH: Self = Self::new(SenseKey::IllegalRequest, 0x1a00);
    /// The range leaves the medium.
    pub const OUT_OF_RANGE: Self = Self::new(SenseKey::IllegalRequest, 0x2100);
    /// There is no such logical unit.
    pub const NO_UNIT: Self = Self::new(SenseKey::IllegalRequest, 0x2500);
    /// Parameters cannot be saved.
    pub const NO_SAVING: Self = Self::new(SenseKey::IllegalRequest, 0x3900);
    /// There is no room for another registration.
    pub const NO_ROOM: Self = Self::new(SenseKey::IllegalRequest, 0x5504);
    /// The medium may not be written.
    pub const WRITE_PROTECTED: Self = Self::new(SenseKey::DataProtect, 0x2700);
    /// Initiators switched write protection on.
    pub const SOFTWARE_WRITE_PROTECTED: Self = Self::new(SenseKey::DataProtect, 0x2702);
    /// No room is left on a thin logical unit.
    pub const NO_SPACE: Self = Self::new(SenseKey::DataProtect, 0x2707);
    /// Data could not be read.
    pub const READ_ERROR: Self = Self::new(SenseKey::MediumError, 0x1100);
    /// Data could not be written.
    pub const WRITE_ERROR: Self = Self::new(SenseKey::MediumError, 0x0c00);
    /// What is behind the logical unit did not answer, however long it was waited for. Not
    /// "becoming ready", for which initiators would wait once more instead of failing the command.
    pub const NOT_READY: Self = Self::new(SenseKey::NotReady, 0x0400);
    /// The device failed.
    pub const FAILURE: Self = Self::new(SenseKey::HardwareError, 0x4400);
    /// Data differs.
    pub const MISCOMPARE: Self = Self::new(SenseKey::Miscompare, 0x1d00);
    /// A data sequence number was not the next one.
    pub const DATA_PHASE: Self = Self::new(SenseKey::AbortedCommand, 0x4b00);
    /// Unsolicited data came although none was allowed.
    pub const UNEXPECTED_DATA: Self = Self::new(SenseKey::AbortedCommand, 0x0c0c);
    /// The direction in which data was announced is not that of the command.
    pub const WRONG_DIRECTION: Self = Self::new(SenseKey::IllegalRequest, 0x0e03);
    /// Not all the data came that was announced.
    pub const NOT_ENOUGH_DATA: Self = Self::new(SenseKey::AbortedCommand, 0x0c0d);
    /// The logical unit was begun anew: nothing that initiators told it before is known any more.
    /// The code is the one that covers resets, too, which is what initiators know best.
    pub const POWER_ON: Self = Self::new(SenseKey::UnitAttention, 0x2900);
    /// The logical unit was reset.
    pub const RESET: Self = Self::new(SenseKey::UnitAttention, 0x2903);
    /// The initiator's session ended, and this is another one.
    pub const NEXUS_LOST: Self = Self::new(SenseKey::UnitAttention, 0x2907);
    /// Mode parameters changed.
    pub const MODE_CHANGED: Self = Self::new(SenseKey::UnitAttention, 0x2a01);
    /// A reservation was taken from its holder.
    pub const RESERVATIONS_PREEMPTED: Self = Self::new(SenseKey::UnitAttention, 0x2a03);
    /// A reservation was released.
    pub const RESERVATIONS_RELEASED: Self = Self::new(SenseKey::UnitAttention, 0x2a04);
    /// A registration was taken from its owner.
    pub const REGISTRATIONS_PREEMPTED: Self = Self::new(SenseKey::UnitAttention, 0x2a05);
    /// Other initiators ended commands.
    pub const COMMANDS_CLEARED: Self = Self::new(SenseKey::UnitAttention, 0x2f00);

    const fn new(key: SenseKey, code: u16) -> Self {
        Self { key, code, information: None, fault: None }
    }

    /// The kind of trouble.
    pub fn key(&self) -> SenseKey {
        self.key
    }

    /// The additional sense code and its qualifier.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The same, at a byte of the command, and a bit of it.
    #[must_use]
    pub const fn at(self, byte: u16, bit: Option<u8>) -> Self {
        let fault = Some(Fault { in_command: true, byte, bit });
        Self { key: self.key, code: self.code, information: self.information, fault }
    }

    /// The same, at a byte of the parameters.
    #[must_use]
    pub const fn in_parameters(self, byte: u16) -> Self {
        let fault = Some(Fault { in_command: false, byte, bit: None });
        Self { key: self.key, code: self.code, information: self.information, fault }
    }

    /// The same, about a block or an offset.
    #[must_use]
    pub const fn about(self, information: u64) -> Self {
        let information = Some(information);
        Self { key: self.key, code: self.code, information, fault: self.fault }
    }

    /// The bytes, in descriptor or fixed format.
    pub fn encode(&self, descriptors: bool) -> Vec<u8> {
        if descriptors { self.encode_descriptors() } else { self.encode_fixed() }
    }

    fn encode_fixed(&self) -> Vec<u8> {
        let mut bytes = vec![0; 18];
        bytes[0] = 0x70;
        bytes[2] = self.key.code();
        // The field has 32 bits; larger numbers need the other format.
        if let Some(information) = self.information.and_then(|n| u32::try_from(n).ok()) {
            bytes[0] |= 0x80;
            put(&mut bytes, 3, &information.to_be_bytes());
        }
        bytes[7] = 10;
        put(&mut bytes, 12, &self.code.to_be_bytes());
        put(&mut bytes, 15, &self.key_specific());
        bytes
    }

    fn encode_descriptors(&self) -> Vec<u8> {
        let [code, qualifier] = self.code.to_be_bytes();
        let mut bytes = vec![0x72, self.key.code(), code, qualifier, 0, 0, 0, 0];
        if let Some(information) = self.information {
            bytes.extend([0x00, 0x0a, 0x80, 0x00]);
            bytes.extend(information.to_be_bytes());
        }
        if self.fault.is_some() {
            bytes.extend([0x02, 0x06, 0, 0]);
            bytes.extend(self.key_specific());
            bytes.push(0);
        }
        bytes[7] = (bytes.len() - 8) as u8;
        bytes
    }

    fn key_specific(&self) -> [u8; 3] {
        let Some(fault) = self.fault else { return [0; 3] };
        let [high, low] = fault.byte.to_be_bytes();
        let place = if fault.in_command { 0xc0 } else { 0x80 };
        [place | fault.bit.map_or(0, |bit| 8 | bit & 7), high, low]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_say_the_same() {
        let sense = Sense::INVALID_FIELD.at(1, Some(5));
        let fixed = [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcd, 0, 1];
        assert_eq!(sense.encode(false), fixed);
        let descriptors = [0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xcd, 0, 1, 0];
        assert_eq!(sense.encode(true), descriptors);
    }

    #[test]
    fn an_offset_stands_in_the_information_field() {
        let sense = Sense::MISCOMPARE.about(0x1234);
        assert_eq!(sense.encode(false)[..8], [0xf0, 0, 0xe, 0, 0, 0x12, 0x34, 10]);
        assert_eq!(sense.encode(true)[7..12], [12, 0, 10, 0x80, 0]);
        let far = Sense::READ_ERROR.about(1 << 40);
        assert_eq!(far.encode(false)[0], 0x70, "not valid: it does not fit");
        assert_eq!(far.encode(true)[12..20], (1_u64 << 40).to_be_bytes());
    }
}
