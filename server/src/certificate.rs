//! When a certificate expires.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Reads one element of DER: its tag, its content, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = digits.iter().fold(0usize, |all, digit| all << 8 | usize::from(*digit));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// The end of a certificate's validity, in milliseconds since 1970; nothing when it is not
/// understood.
pub(crate) fn end_ms(certificate: &[u8]) -> Option<u64> {
    let (_, whole, _) = element(certificate)?;
    let (_, mut body, _) = element(whole)?;
    // An explicit version may stand first; then serial number, algorithm, issuer, validity.
    if body.first() == Some(&0xa0) {
        body = element(body)?.2;
    }
    for _ in 0..3 {
        body = element(body)?.2;
    }
    let (_, validity, _) = element(body)?;
    let (_, _, after) = element(validity)?;
    let (tag, time, _) = element(after)?;
    let text = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    // UTCTime has two digits of the year, GeneralizedTime four.
    let text = match (tag, text.get(..2)?.parse::<u8>().ok()?) {
        (0x17, year) if year >= 50 => format!("19{text}"),
        (0x17, _) => format!("20{text}"),
        (0x18, _) => text.to_owned(),
        _ => return None,
    };
    let time = DateTime::strptime("%Y%m%d%H%M%S", &text).ok()?;
    let time = time.to_zoned(TimeZone::UTC).ok()?.timestamp();
    u64::try_from(time.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(year: i32) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(["a".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 3, 4);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_is_found_in_both_forms_of_time() {
        assert_eq!(end_ms(&made(2031)), Some(1_930_348_800_000));
        assert_eq!(end_ms(&made(2055)), Some(2_687_731_200_000));
    }

    #[test]
    fn what_is_cut_off_has_no_end_and_does_no_harm() {
        let whole = made(2031);
        for length in 0..whole.len().min(200) {
            let _ = end_ms(&whole[..length]);
        }
        assert_eq!(end_ms(&whole[..40]), None);
        assert_eq!(end_ms(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
