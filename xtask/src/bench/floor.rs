//! The floor: the same work with nothing around it, measured by an example of the repository.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::tool::{Step, command};
use crate::host;

/// One kind of work: its speed, and what all cores together spent on it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// GB/s of data on all cores.
    pub speed: f64,
    /// Seconds of processor time for all of the data.
    pub cpu: f64,
}

impl Work {
    fn read(value: &Value) -> Option<Self> {
        Some(Self { speed: value["gbps"].as_f64()?, cpu: value["cpu_s"].as_f64()? })
    }

    /// The better of two: what others on the machine disturbed least.
    fn best(self, other: Self) -> Self {
        let cpu = if self.cpu > 0.0 { self.cpu.min(other.cpu) } else { other.cpu };
        Self { speed: self.speed.max(other.speed), cpu }
    }

    fn json(&self) -> Value {
        json!({ "gbps": self.speed, "cpu_s": self.cpu })
    }
}

/// The kinds of work, as `gateway/repository/examples/floor.rs` explains them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Floor {
    /// Bytes of blocks that are not all zero.
    pub data: u64,
    pub new: Work,
    pub hash: Work,
    pub decode: Work,
    pub read: Work,
    pub write: Work,
}

impl Floor {
    /// Runs the example on an image.
    pub fn measure(program: &Path, image: &Path, scratch: &Path) -> Result<Self> {
        let mut command = command(program, [image.as_os_str(), scratch.as_os_str()]);
        let text = host::output(command.env_remove("RAYON_NUM_THREADS"))?;
        let value: Value = serde_json::from_str(&text).context("the floor printed no JSON")?;
        let work = |name: &str| {
            Work::read(&value[name]).with_context(|| format!("the floor printed no {name}"))
        };
        Ok(Self {
            data: value["data_bytes"].as_u64().context("the floor printed no data_bytes")?,
            new: work("new")?,
            hash: work("hash")?,
            decode: work("decode")?,
            read: work("read")?,
            write: work("write")?,
        })
    }

    /// The best of each.
    pub fn best(self, other: Self) -> Self {
        Self {
            data: self.data.max(other.data),
            new: self.new.best(other.new),
            hash: self.hash.best(other.hash),
            decode: self.decode.best(other.decode),
            read: self.read.best(other.read),
            write: self.write.best(other.write),
        }
    }

    /// The work of a step; nothing when no floor is known for it. A rescan cannot be faster than
    /// its source is read, nor a restore than its target is written.
    fn work(&self, step: Step) -> Option<Work> {
        match step {
            Step::Full => Some(self.new),
            Step::Rescan if self.read.speed < self.hash.speed => Some(self.read),
            Step::Rescan => Some(self.hash),
            Step::Restore if self.write.speed < self.decode.speed => Some(self.write),
            Step::Restore | Step::Check => Some(self.decode),
            Step::Similar | Step::Prune => None,
        }
    }

    /// The least time a step can take.
    pub fn time(&self, step: Step) -> Option<Duration> {
        let speed = self.work(step)?.speed;
        (speed > 0.0).then(|| Duration::from_secs_f64(self.data as f64 / 1e9 / speed))
    }

    /// The least processor time a step can take. What goes on side by side takes it all the same.
    pub fn cpu(&self, step: Step) -> Option<Duration> {
        let cpu = match step {
            Step::Full => self.new.cpu,
            Step::Rescan => self.hash.cpu + self.read.cpu,
            Step::Restore => self.decode.cpu + self.write.cpu,
            Step::Check => self.decode.cpu,
            Step::Similar | Step::Prune => return None,
        };
        (cpu > 0.0).then(|| Duration::from_secs_f64(cpu))
    }

    pub fn json(&self) -> Value {
        json!({
            "data_bytes": self.data,
            "new": self.new.json(),
            "hash": self.hash.json(),
            "decode": self.decode.json(),
            "read": self.read.json(),
            "write": self.write.json(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(speed: f64, cpu: f64) -> Work {
        Work { speed, cpu }
    }

    #[test]
    fn times_follow_from_data_and_speed() {
        let floor = Floor {
            data: 2_000_000_000,
            new: work(0.5, 8.0),
            hash: work(4.0, 1.0),
            decode: work(1.0, 4.0),
            read: work(2.0, 2.0),
            write: work(0.5, 1.0),
        };
        assert_eq!(floor.time(Step::Full), Some(Duration::from_secs(4)));
        assert_eq!(floor.cpu(Step::Full), Some(Duration::from_secs(8)));
        assert_eq!(floor.time(Step::Rescan), Some(Duration::from_secs(1)), "limited by reading");
        assert_eq!(floor.cpu(Step::Rescan), Some(Duration::from_secs(3)), "both are needed");
        assert_eq!(floor.time(Step::Restore), Some(Duration::from_secs(4)), "limited by writing");
        assert_eq!(floor.time(Step::Check), Some(Duration::from_secs(2)));
        assert_eq!(floor.time(Step::Similar), None);
        assert_eq!(Floor::default().time(Step::Full), None);
    }

    #[test]
    fn the_best_of_nothing_and_a_measurement_is_the_measurement() {
        let best = Work::default().best(work(2.0, 3.0)).best(work(1.0, 2.0));
        assert_eq!(best, work(2.0, 2.0));
    }
}
