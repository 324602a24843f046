//! The floor: the same work with nothing around it, measured by an example of the repository.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::tool::{Step, command};
use crate::host;

/// Speeds in GB/s of data, as `gateway/repository/examples/floor.rs` explains them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Floor {
    /// Bytes of blocks that are not all zero.
    pub data: u64,
    pub new: f64,
    pub hash: f64,
    pub decode: f64,
    pub read: f64,
}

impl Floor {
    /// Runs the example on an image.
    pub fn measure(program: &Path, image: &Path) -> Result<Self> {
        let text =
            host::output(command(program, [image.as_os_str()]).env_remove("RAYON_NUM_THREADS"))?;
        let value: Value = serde_json::from_str(&text).context("the floor printed no JSON")?;
        let speed = |name: &str| {
            value[name].as_f64().with_context(|| format!("the floor printed no {name}"))
        };
        Ok(Self {
            data: value["data_bytes"].as_u64().context("the floor printed no data_bytes")?,
            new: speed("new_gbps")?,
            hash: speed("hash_gbps")?,
            decode: speed("decode_gbps")?,
            read: speed("read_gbps")?,
        })
    }

    /// The fastest of each: what others on the machine disturbed least.
    pub fn best(self, other: Self) -> Self {
        Self {
            data: self.data.max(other.data),
            new: self.new.max(other.new),
            hash: self.hash.max(other.hash),
            decode: self.decode.max(other.decode),
            read: self.read.max(other.read),
        }
    }

    /// The least time a step can take; nothing when no floor is known for it. A rescan cannot be
    /// faster than its source is read.
    pub fn time(&self, step: Step) -> Option<Duration> {
        let speed = match step {
            Step::Full => self.new,
            Step::Rescan => self.hash.min(self.read),
            Step::Restore => self.decode,
            Step::Similar => return None,
        };
        (speed > 0.0).then(|| Duration::from_secs_f64(self.data as f64 / 1e9 / speed))
    }

    pub fn json(&self) -> Value {
        json!({
            "data_bytes": self.data,
            "new_gbps": self.new,
            "hash_gbps": self.hash,
            "decode_gbps": self.decode,
            "read_gbps": self.read,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_from_data_and_speed() {
        let floor = Floor { data: 2_000_000_000, new: 0.5, hash: 4.0, decode: 1.0, read: 2.0 };
        assert_eq!(floor.time(Step::Full), Some(Duration::from_secs(4)));
        assert_eq!(floor.time(Step::Rescan), Some(Duration::from_secs(1)));
        assert_eq!(floor.time(Step::Restore), Some(Duration::from_secs(2)));
        assert_eq!(floor.time(Step::Similar), None);
        assert_eq!(Floor::default().time(Step::Full), None);
    }
}
