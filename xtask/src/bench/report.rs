//! The tables: ratios first, figures below.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::data::{DataSet, MIB};
use super::extras::Extras;
use super::floor::Floor;
use super::machine::Machine;
use super::measure::Samples;
use super::tool::Step;

/// What one tool did with one data set.
#[derive(Debug, Default)]
pub struct ToolResult {
    pub name: String,
    pub about: String,
    pub steps: BTreeMap<Step, Samples>,
    /// Bytes its repository took on disk after a step.
    pub stored: BTreeMap<Step, u64>,
}

impl ToolResult {
    fn wall(&self, step: Step) -> Option<Duration> {
        Some(self.steps.get(&step)?.best()?.wall)
    }

    fn rss_kib(&self) -> u64 {
        self.steps.values().map(Samples::rss_kib).max().unwrap_or(0)
    }

    /// What the similar image added to its repository.
    fn growth(&self) -> Option<u64> {
        let before = self.stored.get(&Step::Rescan)?;
        Some(self.stored.get(&Step::Similar)?.saturating_sub(*before))
    }
}

/// What all tools did with one data set.
#[derive(Debug)]
pub struct SetResult {
    pub data: DataSet,
    pub floor: Floor,
    /// Sluice is the first.
    pub tools: Vec<ToolResult>,
    pub extras: Extras,
}

/// A whole run.
#[derive(Debug)]
pub struct Report {
    pub machine: Machine,
    /// The command that made it.
    pub command: String,
    pub rounds: usize,
    /// Least and greatest load average seen before a round.
    pub load: (f64, f64),
    pub sets: Vec<SetResult>,
}

impl Report {
    pub fn markdown(&self) -> String {
        let mut text = self.machine.markdown();
        let (least, most) = self.load;
        let (rounds, command) = (self.rounds, &self.command);
        let _ = write!(
            text,
            "\nCommand: `{command}`. The best of {rounds} rounds counts. Load average between the \
             rounds: {least:.1} to {most:.1} (the benchmark itself is part of it).\n"
        );
        for set in &self.sets {
            set.markdown(&mut text);
        }
        text
    }

    pub fn json(&self) -> Value {
        json!({
            "machine": self.machine.json(),
            "command": self.command,
            "rounds": self.rounds,
            "load_average": { "least": self.load.0, "most": self.load.1 },
            "sets": self.sets.iter().map(SetResult::json).collect::<Vec<_>>(),
        })
    }
}

impl SetResult {
    fn markdown(&self, text: &mut String) {
        let _ = write!(text, "\n### Data: {}\n\n{}.\n", self.data.name, self.data.about);
        self.ratios(text);
        self.fractions(text);
        for step in Step::ALL {
            self.figures(text, step);
        }
        self.extra(text);
    }

    /// One row for each tool: how many times what Sluice takes.
    fn ratios(&self, text: &mut String) {
        let Some(sluice) = self.tools.first() else { return };
        text.push_str(
            "\nTimes, bytes, and memory as multiples of what Sluice takes: above 1, Sluice takes \
             less.\n\n| tool |",
        );
        for step in Step::ALL {
            let _ = write!(text, " {} |", step.name());
        }
        text.push_str(" stored | stored for similar | peak memory |\n");
        let _ = writeln!(text, "|{}", "---|".repeat(Step::ALL.len() + 4));
        for tool in &self.tools {
            let _ = write!(text, "| {} ({}) |", tool.name, tool.about);
            for step in Step::ALL {
                let seconds = |tool: &ToolResult| tool.wall(step).map(|wall| wall.as_secs_f64());
                let _ = write!(text, " {} |", multiple(seconds(tool), seconds(sluice)));
            }
            let bytes = |tool: &ToolResult| tool.stored.get(&Step::Full).map(|&b| b as f64);
            let growth = |tool: &ToolResult| tool.growth().map(|bytes| bytes as f64);
            let memory = |tool: &ToolResult| Some(tool.rss_kib() as f64);
            let _ = writeln!(
                text,
                " {} | {} | {} |",
                multiple(bytes(tool), bytes(sluice)),
                multiple(growth(tool), growth(sluice)),
                multiple(memory(tool), memory(sluice)),
            );
        }
    }

    /// What Sluice reaches of the floor.
    fn fractions(&self, text: &mut String) {
        let floor = &self.floor;
        let _ = write!(
            text,
            "\nThe floor on all cores, in GB/s: new data {:.2}, BLAKE3 {:.2}, reading the source \
             {:.2}, decode {:.2}, writing a file {:.2}. Sluice reaches of it (and, counting \
             processor time alone):",
            floor.new.speed,
            floor.hash.speed,
            floor.read.speed,
            floor.decode.speed,
            floor.write.speed
        );
        let mut separator = " ";
        for step in Step::ALL {
            if let Some(part) = self.of_floor(step) {
                let _ = write!(text, "{separator}{} **{:.0} %**", step.name(), part * 100.0);
                if let Some(part) = self.of_processor(step) {
                    let _ = write!(text, " ({:.0} %)", part * 100.0);
                }
                separator = ", ";
            }
        }
        text.push_str(".\n");
    }

    fn of_floor(&self, step: Step) -> Option<f64> {
        let wall = self.tools.first()?.wall(step)?;
        Some(self.floor.time(step)?.as_secs_f64() / wall.as_secs_f64().max(1e-9))
    }

    /// The same for processor time: what waiting and other programs cannot change.
    fn of_processor(&self, step: Step) -> Option<f64> {
        let cpu = self.tools.first()?.steps.get(&step)?.best()?.cpu;
        Some(self.floor.cpu(step)?.as_secs_f64() / cpu.as_secs_f64().max(1e-9))
    }

    fn figures(&self, text: &mut String, step: Step) {
        let growth = if step == Step::Similar { "added MiB" } else { "stored MiB" };
        let _ = write!(
            text,
            "\n#### {}\n\n| tool | best s | median s | MiB/s | CPU s | {growth} | peak MiB |\n\
             |---|---|---|---|---|---|---|\n",
            step.name()
        );
        for tool in &self.tools {
            let Some(samples) = tool.steps.get(&step) else { continue };
            let (Some(best), Some(median)) = (samples.best(), samples.median_wall()) else {
                continue;
            };
            let bytes = match step {
                Step::Similar => tool.growth(),
                Step::Restore | Step::Check => None,
                _ => tool.stored.get(&step).copied(),
            };
            let _ = writeln!(
                text,
                "| {} | {:.2} | {:.2} | {:.0} | {:.2} | {} | {} |",
                tool.name,
                best.wall.as_secs_f64(),
                median.as_secs_f64(),
                self.data.data as f64 / MIB as f64 / best.wall.as_secs_f64().max(1e-9),
                best.cpu.as_secs_f64(),
                bytes.map_or("–".to_owned(), |bytes| (bytes / MIB).to_string()),
                samples.rss_kib() / 1024,
            );
        }
    }

    fn extra(&self, text: &mut String) {
        let sluice = self.tools.first();
        let restore = sluice.and_then(|tool| tool.wall(Step::Restore));
        if self.extras.0.is_empty() {
            return;
        }
        text.push_str(
            "\n#### Sluice only\n\n| what | best s | median s | CPU s | peak MiB | time / restore \
             |\n|---|---|---|---|---|---|\n",
        );
        for (name, samples) in &self.extras.0 {
            let (Some(best), Some(median)) = (samples.best(), samples.median_wall()) else {
                continue;
            };
            let wall = best.wall.as_secs_f64();
            let _ = writeln!(
                text,
                "| {name} | {wall:.4} | {:.4} | {:.2} | {} | {} |",
                median.as_secs_f64(),
                best.cpu.as_secs_f64(),
                samples.rss_kib() / 1024,
                multiple(Some(wall), restore.map(|wall| wall.as_secs_f64())),
            );
        }
    }

    fn json(&self) -> Value {
        let tools = self.tools.iter().map(|tool| {
            let steps = tool.steps.iter().map(|(step, samples)| (step.name(), samples.json()));
            let stored = tool.stored.iter().map(|(step, bytes)| (step.name(), *bytes));
            json!({
                "name": tool.name,
                "about": tool.about,
                "steps": steps.collect::<BTreeMap<_, _>>(),
                "stored_bytes": stored.collect::<BTreeMap<_, _>>(),
            })
        });
        let floor = Step::ALL.iter().map(|&step| (step.name(), self.of_floor(step)));
        let cpu = Step::ALL.iter().map(|&step| (step.name(), self.of_processor(step)));
        let extras = self
            .extras
            .0
            .iter()
            .map(|(name, samples)| json!({ "name": name, "samples": samples.json() }));
        json!({
            "name": self.data.name,
            "size_bytes": self.data.size,
            "data_bytes": self.data.data,
            "floor": self.floor.json(),
            "sluice_of_floor": floor.collect::<BTreeMap<_, _>>(),
            "sluice_of_floor_cpu": cpu.collect::<BTreeMap<_, _>>(),
            "tools": tools.collect::<Vec<_>>(),
            "sluice_only": extras.collect::<Vec<_>>(),
        })
    }
}

/// `value` as a multiple of `base`.
fn multiple(value: Option<f64>, base: Option<f64>) -> String {
    match (value, base) {
        (Some(value), Some(base)) if base > 0.0 => format!("{:.2}", value / base),
        _ => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::floor::Work;
    use super::super::measure::Sample;
    use super::*;

    fn tool(name: &str, seconds: u64, stored: u64) -> ToolResult {
        let wall = Duration::from_secs(seconds);
        let samples = Samples(vec![Sample { wall, cpu: wall, rss_kib: 2048 }]);
        ToolResult {
            name: name.to_owned(),
            about: "so".to_owned(),
            steps: [(Step::Full, samples)].into(),
            stored: [(Step::Full, stored)].into(),
        }
    }

    fn result() -> SetResult {
        let path = std::path::PathBuf::from;
        let data = DataSet {
            name: "some".to_owned(),
            about: "about".to_owned(),
            image: path("a"),
            similar: path("b"),
            changed: path("c"),
            size: 8 * MIB,
            data: 4 * MIB,
        };
        let floor =
            Floor { data: 4_000_000_000, new: Work { speed: 2.0, cpu: 1.0 }, ..Floor::default() };
        let tools = vec![tool("sluice", 4, 10 * MIB), tool("other", 6, 5 * MIB)];
        SetResult { data, floor, tools, extras: Extras::default() }
    }

    #[test]
    fn ratios_are_multiples_of_sluice() {
        let mut text = String::new();
        result().ratios(&mut text);
        assert!(
            text.contains("| sluice (so) | 1.00 | – | – | – | – | – | 1.00 | – | 1.00 |"),
            "{text}"
        );
        assert!(
            text.contains("| other (so) | 1.50 | – | – | – | – | – | 0.50 | – | 1.00 |"),
            "{text}"
        );
    }

    #[test]
    fn the_floor_is_divided_by_the_time_of_sluice() {
        assert_eq!(result().of_floor(Step::Full), Some(0.5));
        assert_eq!(result().of_floor(Step::Restore), None);
        let mut text = String::new();
        result().fractions(&mut text);
        assert!(text.contains("new data **50 %** (25 %)."), "{text}");
    }

    #[test]
    fn steps_a_tool_does_not_know_have_no_row() {
        let mut text = String::new();
        result().figures(&mut text, Step::Full);
        assert!(text.contains("| other | 6.00 | 6.00 | 1 | 6.00 | 5 | 2 |"), "{text}");
        let mut text = String::new();
        result().figures(&mut text, Step::Restore);
        assert!(!text.contains("other"), "{text}");
    }
}
