//! Times and the ids of restore points, for people.

use std::borrow::Cow;
use std::collections::HashMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use sluice_repository::RestorePoint;

/// Characters of an id that hold its time; two points of an instance seldom share them.
const SHORTEST_ID: usize = 10;
/// Characters of an id in the name of a folder: its time and 22 random bits.
const FOLDER_ID: usize = 14;

fn timestamp(ms: u64) -> Timestamp {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}

/// A moment as people of this zone write it.
pub(crate) fn local(ms: u64, zone: &TimeZone) -> String {
    timestamp(ms).to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The name of a point's folder in a mount: `2026-11-21T03-00-00Z-0q5g3...`, in UTC.
pub(crate) fn folder_name(point: &RestorePoint) -> String {
    let time = timestamp(point.created_ms).to_zoned(TimeZone::UTC);
    let id = point.id.to_string();
    format!("{}-{}", time.strftime("%Y-%m-%dT%H-%M-%SZ"), &id[..FOLDER_ID.min(id.len())])
}

/// Turns `INSTANCE@FOLDER[:IMAGE]` into `INSTANCE@ID[:IMAGE]`; other text stays.
pub(crate) fn undo_folder_name(text: &str) -> Cow<'_, str> {
    const TIME: &str = "0000-00-00T00-00-00Z-";
    let shaped = |point: &str| {
        point.len() > TIME.len()
            && point.bytes().zip(TIME.bytes()).all(|(byte, like)| match like {
                b'0' => byte.is_ascii_digit(),
                _ => byte == like,
            })
    };
    match text.rsplit_once('@') {
        Some((instance, point)) if shaped(point) => {
            Cow::Owned(format!("{instance}@{}", &point[TIME.len()..]))
        }
        _ => Cow::Borrowed(text),
    }
}

/// For each point the shortest start of its id that no other point of its instance shares.
pub(crate) fn short_ids(points: &[RestorePoint]) -> Vec<String> {
    let mut by_instance: HashMap<&str, Vec<String>> = HashMap::new();
    for point in points {
        by_instance.entry(&point.instance).or_default().push(point.id.to_string());
    }
    by_instance.values_mut().for_each(|ids| ids.sort_unstable());
    let short = |point: &RestorePoint| {
        let id = point.id.to_string();
        shortest(&by_instance[point.instance.as_str()], &id).to_owned()
    };
    points.iter().map(short).collect()
}

/// The shortest start of an id that no other one shares. Of those in order, neighbours share most.
fn shortest<'i>(ids: &[String], id: &'i str) -> &'i str {
    let shared = |other: &String| id.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let before = ids.partition_point(|other| other.as_str() < id);
    let after = before + ids[before..].partition_point(|other| other == id);
    let neighbours = [before.checked_sub(1).and_then(|at| ids.get(at)), ids.get(after)];
    let most = neighbours.into_iter().flatten().map(shared).max().unwrap_or(0);
    &id[..(most + 1).clamp(SHORTEST_ID, id.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_lead_back_to_the_id() {
        let to = |text| undo_folder_name(text).into_owned();
        assert_eq!(to("web@2026-11-21T03-00-00Z-0q5g3"), "web@0q5g3");
        assert_eq!(to("web@2026-11-21T03-00-00Z-0q5g3:vda"), "web@0q5g3:vda");
        for same in ["web", "web@latest", "web@2026-11-21T03:00", "w@2026-11-21T03-00-00Z-", "é@é"]
        {
            assert_eq!(to(same), same);
        }
    }

    #[test]
    fn short_ids_are_as_long_as_it_takes_to_tell_them_apart() {
        let mut ids = ["0dabcdefgh001", "0dabcdefgh0k2", "0dabcdefgh0k3", "0dzzzzzzzzzz1"]
            .map(str::to_owned)
            .to_vec();
        let shorts: Vec<&str> = ids.iter().map(|id| shortest(&ids, id)).collect();
        assert_eq!(shorts, ["0dabcdefgh00", "0dabcdefgh0k2", "0dabcdefgh0k3", "0dzzzzzzzz"]);
        ids.truncate(1);
        assert_eq!(shortest(&ids, &ids[0]), "0dabcdefgh");
    }

    #[test]
    fn times_are_told_in_the_zone() {
        let east = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(local(1_795_230_000_000, &east), "2026-11-21 05:00:00");
        assert!(!local(u64::MAX, &TimeZone::UTC).is_empty());
    }
}
