/// The number of a logical unit in the wire's eight bytes (SAM-5, "Single level LUN structure").
pub fn lun_to_wire(lun: u16) -> u64 {
    let lun = u64::from(lun & 0x3fff);
    // Peripheral addressing has 8 bits, flat space addressing 14.
    if lun < 256 { lun << 48 } else { (0x4000 | lun) << 48 }
}

/// The number in the wire's eight bytes; none for addresses of more than one level.
pub fn lun_from_wire(wire: u64) -> Option<u16> {
    let first = (wire >> 48) as u16;
    if wire << 16 != 0 {
        return None;
    }
    match first >> 14 {
        0 if first < 256 => Some(first),
        1 => Some(first & 0x3fff),
        _ => None,
    }
}

/// The wire's eight bytes in the one form of which all others with this meaning have an equal:
/// initiators may say one number in two ways. What leads nowhere stays what it is.
pub fn lun_normal(wire: u64) -> u64 {
    lun_from_wire(wire).map_or(wire, lun_to_wire)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_there_and_back() {
        for lun in [0, 1, 255, 256, 0x3fff] {
            assert_eq!(lun_from_wire(lun_to_wire(lun)), Some(lun));
        }
        assert_eq!(lun_to_wire(1), 0x0001_0000_0000_0000);
        assert_eq!(lun_to_wire(300), 0x412c_0000_0000_0000);
    }

    #[test]
    fn both_ways_to_say_a_number_have_one_form() {
        assert_eq!(lun_normal(0x4001_0000_0000_0000), 0x0001_0000_0000_0000);
        for wire in [0, 0x0001_0000_0000_0000, 0x412c_0000_0000_0000, 0x8000_0000_0000_0000] {
            assert_eq!(lun_normal(wire), wire);
        }
    }

    #[test]
    fn addresses_of_several_levels_lead_nowhere() {
        for wire in [1, 0x0100_0000_0000_0000, 0x8000_0000_0000_0000, 0xc101_0000_0000_0000] {
            assert_eq!(lun_from_wire(wire), None);
        }
    }
}
