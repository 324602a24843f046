use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::kind;
use crate::error::{CatalogError, Result};
use crate::id::{DestinationId, InstanceId, NodeId, PlanId, PointId};
use crate::model::mount::MountProtocol;
use crate::model::policy::{Schedule, check_schedules};
use crate::model::restore_test::BootSpec;

/// Steps of one plan.
const MOST_STEPS: usize = 1000;
/// Guests that are booted together.
const MOST_GUESTS: usize = 8;
/// How long a script may take at most, in seconds.
const LONGEST_SCRIPT: u64 = 24 * 3600;

/// A recovery plan: what is brought back, in which order, and to where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// For people.
    #[serde(default)]
    pub description: String,
    /// What `${NAME}` in targets and scripts stands for, unless a run says otherwise.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// One after the other.
    pub groups: Vec<PlanGroup>,
    /// When it runs by itself.
    #[serde(default)]
    pub schedules: Vec<PlanSchedule>,
}

/// What is brought back together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanGroup {
    /// Its name within the plan.
    pub name: String,
    /// Scripts before its items, one after the other.
    #[serde(default)]
    pub before: Vec<Script>,
    /// What is brought back.
    #[serde(default)]
    pub items: Vec<PlanItem>,
    /// Scripts after its items, one after the other.
    #[serde(default)]
    pub after: Vec<Script>,
    /// Items at a time; all when it is 0.
    #[serde(default)]
    pub concurrency: u32,
    /// What becomes of the plan when something of it fails.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// The network in which all that is booted of it is booted together; each in one of its own
    /// without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<PlanNetwork>,
}

/// A network of guests that are booted together to be tested. It leads nowhere but to each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PlanNetwork {
    /// Its addresses, a network of /8 to /27; `10.0.2.0/24` when nothing is said. The last three
    /// of its hosts are not guests'.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// The node on which all of them run; without, one that can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
}

impl PlanNetwork {
    /// The network, and the part of an address that names it.
    fn bits(&self) -> Option<(u32, u32)> {
        let text = self.subnet.as_deref().unwrap_or("10.0.2.0/24");
        let (base, prefix) = text.split_once('/')?;
        let base = u32::from(base.parse::<Ipv4Addr>().ok()?);
        let prefix = prefix.parse::<u32>().ok().filter(|prefix| (8..=27).contains(prefix))?;
        let mask = u32::MAX << (32 - prefix);
        (base & !mask == 0).then_some((base, mask))
    }

    /// Whether an address is one that a guest may have.
    fn has(&self, address: &str) -> bool {
        let (Some((base, mask)), Ok(own)) = (self.bits(), address.parse::<Ipv4Addr>()) else {
            return false;
        };
        let own = u32::from(own);
        own & mask == base && own != base && own < (base | !mask) - 3
    }
}

/// What becomes of a plan when something of a group fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Nothing comes after that group.
    #[default]
    Stop,
    /// It goes on.
    Continue,
}

/// Something that is brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanItem {
    /// What was backed up.
    pub instance: InstanceId,
    /// Which of its restore points.
    #[serde(default)]
    pub point: PointChoice,
    /// Where the restore point lies; anywhere when it is not said.
    #[serde(default)]
    pub destination: Option<DestinationId>,
    /// The only image; all without.
    #[serde(default)]
    pub image: Option<String>,
    /// What becomes of it.
    pub target: PlanTarget,
    /// How it is booted when the plan is only tested; without, it is mounted then.
    #[serde(default)]
    pub test: Option<BootSpec>,
    /// In the network of its group: it is started when all of lower stages have answered, and they
    /// run on meanwhile.
    #[serde(default, skip_serializing_if = "is_first")]
    pub stage: u32,
    /// Its address in the network of its group, by DHCP or as it knows itself; the next that is
    /// free when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

fn is_first(stage: &u32) -> bool {
    *stage == 0
}

/// A restore point.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PointChoice {
    /// The newest when the step begins.
    #[default]
    Latest,
    /// The newest that is not younger than this.
    At {
        /// In milliseconds since 1970.
        time_ms: u64,
    },
    /// This one.
    Id {
        /// Its id.
        id: PointId,
    },
}

/// What becomes of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PlanTarget {
    /// It is written to a raw file, or to a folder when it has several images.
    File {
        /// Of this node.
        node: NodeId,
        /// An absolute path.
        path: String,
        /// Whether a file that is there is written over.
        #[serde(default)]
        overwrite: bool,
    },
    /// It is written to a qcow2 file.
    Qcow2 {
        /// Of this node.
        node: NodeId,
        /// An absolute path.
        path: String,
        /// Whether a file that is there is written over.
        #[serde(default)]
        overwrite: bool,
    },
    /// It is written over a block device.
    Device {
        /// Of this node.
        node: NodeId,
        /// An absolute path.
        path: String,
    },
    /// A node shows it as disks.
    Mount {
        /// This node.
        node: NodeId,
        /// How.
        protocol: MountProtocol,
        /// Networks of the clients that may connect.
        clients: Vec<String>,
        /// For so long, in seconds.
        #[serde(default = "eight_hours")]
        lease_seconds: u64,
    },
    /// It is booted, to see whether it answers.
    BootTest {
        /// On this node; without, on one that can.
        #[serde(default)]
        node: Option<NodeId>,
        /// How.
        #[serde(default)]
        boot: BootSpec,
    },
}

fn eight_hours() -> u64 {
    8 * 3600
}

impl PlanTarget {
    /// The path that it writes to.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::File { path, .. } | Self::Qcow2 { path, .. } | Self::Device { path, .. } => {
                Some(path)
            }
            Self::Mount { .. } | Self::BootTest { .. } => None,
        }
    }

    /// The node that it names.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::File { node, .. }
            | Self::Qcow2 { node, .. }
            | Self::Device { node, .. }
            | Self::Mount { node, .. } => Some(*node),
            Self::BootTest { node, .. } => *node,
        }
    }
}

/// A command that a node runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Its name.
    pub name: String,
    /// The node.
    pub node: NodeId,
    /// The program and its arguments. No shell is between, unless it is the program.
    pub command: Vec<String>,
    /// It is ended after so long, in seconds.
    #[serde(default = "ten_minutes")]
    pub limit_seconds: u64,
    /// How often it may be started when its node dies meanwhile: 1 to 10. It may have done
    /// something by then, so more than once is for those that can be repeated.
    #[serde(default = "once")]
    pub attempts: u32,
    /// Exit codes that mean success; 0 when nothing is said.
    #[serde(default)]
    pub accept: BTreeSet<i32>,
    /// In which runs of the plan it is run; only in those that are no test, when nothing is said.
    #[serde(default = "only_run")]
    pub modes: BTreeSet<PlanMode>,
}

fn ten_minutes() -> u64 {
    600
}

fn once() -> u32 {
    1
}

fn only_run() -> BTreeSet<PlanMode> {
    [PlanMode::Run].into()
}

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PlanMode {
    /// To bring things back.
    Run,
    /// To see that it would work: things are booted or mounted instead of restored, and nothing
    /// of it stays.
    Test,
}

impl PlanMode {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Test => "test",
        }
    }
}

/// When a plan runs by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanSchedule {
    /// What such a run is for.
    pub mode: PlanMode,
    /// When.
    pub schedule: Schedule,
}

impl Plan {
    /// All scripts.
    pub fn scripts(&self) -> impl Iterator<Item = &Script> {
        self.groups.iter().flat_map(|group| group.before.iter().chain(&group.after))
    }

    /// All items.
    pub fn items(&self) -> impl Iterator<Item = &PlanItem> {
        self.groups.iter().flat_map(|group| &group.items)
    }

    fn sense(&self) -> Result<()> {
        let bad = CatalogError::invalid;
        if self.scripts().count() + self.items().count() > MOST_STEPS {
            return Err(bad("a plan has 1000 items and scripts at most"));
        }
        let mut names = BTreeSet::new();
        for group in &self.groups {
            crate::record::check_name("group", &group.name)?;
            if !names.insert(&group.name) {
                return Err(bad("two groups of a plan have the same name"));
            }
            group.network_sense()?;
        }
        for name in self.parameters.keys() {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || name.len() > 64 || !name.chars().all(word) {
                return Err(bad("the name of a parameter has 1 to 64 letters, digits and _"));
            }
        }
        for script in self.scripts() {
            crate::record::check_name("script", &script.name)?;
            if script.command.first().is_none_or(String::is_empty) {
                return Err(bad("a script has a command"));
            }
            if !(1..=LONGEST_SCRIPT).contains(&script.limit_seconds) {
                return Err(bad("a script has 1 second to 24 hours"));
            }
            if !(1..=10).contains(&script.attempts) {
                return Err(bad("a script has 1 to 10 attempts"));
            }
        }
        for item in self.items() {
            item.sense()?;
        }
        let mut names = BTreeSet::new();
        for PlanSchedule { schedule, .. } in &self.schedules {
            if !names.insert(&schedule.name) {
                return Err(bad("two schedules of a plan have the same name"));
            }
            check_schedules(std::slice::from_ref(schedule))?;
        }
        Ok(())
    }
}

impl PlanGroup {
    fn network_sense(&self) -> Result<()> {
        let bad = CatalogError::invalid;
        let Some(network) = &self.network else {
            let placed = |item: &PlanItem| item.stage != 0 || item.address.is_some();
            return match self.items.iter().any(placed) {
                true => Err(bad("stages and addresses go with the network of a group")),
                false => Ok(()),
            };
        };
        if network.bits().is_none() {
            return Err(bad("a network is one such as 10.0.2.0/24, of /8 to /27"));
        }
        if self.items.len() > MOST_GUESTS {
            return Err(bad("a network has 8 guests at most"));
        }
        let addresses: Vec<&String> =
            self.items.iter().filter_map(|item| item.address.as_ref()).collect();
        let different: BTreeSet<&&String> = addresses.iter().collect();
        if different.len() < addresses.len() || !addresses.iter().all(|one| network.has(one)) {
            return Err(bad("each guest has an address of its own in the network of its group"));
        }
        Ok(())
    }
}

impl PlanItem {
    /// How it is booted in a run of that mode, if it is.
    pub fn boot(&self, mode: PlanMode) -> Option<&BootSpec> {
        match (&self.test, &self.target) {
            (Some(boot), _) if mode == PlanMode::Test => Some(boot),
            (_, PlanTarget::BootTest { boot, .. }) => Some(boot),
            _ => None,
        }
    }

    fn sense(&self) -> Result<()> {
        let bad = CatalogError::invalid;
        let text = self.target.path().unwrap_or("/");
        if !(text.starts_with('/') || text.starts_with("${")) || text.contains('\0') {
            return Err(bad("a target is an absolute path"));
        }
        if self.image.as_ref().is_some_and(|name| name.is_empty() || name.contains(':')) {
            return Err(bad("this is no name of an image"));
        }
        if let PlanTarget::Mount { clients, lease_seconds, .. } = &self.target
            && (clients.is_empty() || !(5..=90 * 86_400).contains(lease_seconds))
        {
            return Err(bad("a mount has clients, and a lease of 5 seconds to 90 days"));
        }
        if let PlanTarget::Mount { protocol, .. } = &self.target
            && ![MountProtocol::Nbd, MountProtocol::Iscsi].contains(protocol)
        {
            return Err(bad("plans mount by nbd and iscsi"));
        }
        if let PlanTarget::BootTest { boot, .. } = &self.target {
            boot.sense()?;
        }
        self.test.as_ref().map_or(Ok(()), BootSpec::sense)
    }
}

kind!(Plan, PlanId, "plans", "plan", shared: false);

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn plan(change: impl FnOnce(&mut Value)) -> Result<()> {
        let id = "00000000-0000-7000-8000-000000000001";
        let mut text = serde_json::json!({"parameters": {"where": "/restored"}, "groups": [{
            "name": "first",
            "before": [{"name": "s", "node": id, "command": ["/bin/true"]}],
            "items": [{"instance": id,
                "target": {"kind": "file", "node": id, "path": "${where}/web"}}],
        }]});
        change(&mut text);
        serde_json::from_value::<Plan>(text).unwrap().sense()
    }

    #[test]
    fn a_plan_that_makes_no_sense_is_refused() {
        assert!(plan(|_| {}).is_ok());
        assert!(plan(|p| p["groups"][0]["items"][0]["target"]["path"] = "web".into()).is_err());
        assert!(plan(|p| p["groups"][0]["before"][0]["command"] = Value::Array(vec![])).is_err());
        assert!(plan(|p| p["parameters"]["a b"] = "c".into()).is_err());
        let twice = |p: &mut Value| {
            let group = p["groups"][0].clone();
            p["groups"].as_array_mut().unwrap().push(group);
        };
        assert!(plan(twice).is_err());
    }

    #[test]
    fn guests_of_a_network_have_places_in_it() {
        let network = |network: Value, address: Value| {
            plan(|p| {
                p["groups"][0]["network"] = network;
                p["groups"][0]["items"][0]["address"] = address;
            })
        };
        let (none, own) = (Value::Null, serde_json::json!({"subnet": "192.168.7.0/24"}));
        assert!(network(serde_json::json!({}), none.clone()).is_ok());
        assert!(network(own.clone(), "192.168.7.9".into()).is_ok());
        for bad in ["10.0.2.15", "192.168.7.0", "192.168.7.254", "x"] {
            assert!(network(own.clone(), bad.into()).is_err(), "{bad}");
        }
        for bad in ["10.0.2.0", "10.0.2.1/24", "10.0.2.0/28"] {
            assert!(network(serde_json::json!({"subnet": bad}), none.clone()).is_err(), "{bad}");
        }
        assert!(network(none, "10.0.2.15".into()).is_err(), "there is no network");
    }

    #[test]
    fn scripts_run_in_tests_only_when_that_is_said() {
        let script: Script = serde_json::from_value(serde_json::json!({"name": "s",
            "node": "00000000-0000-7000-8000-000000000001", "command": ["x"]}))
        .unwrap();
        assert_eq!(script.modes, [PlanMode::Run].into());
    }
}
