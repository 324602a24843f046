//! What a list is asked to tell: flags become parameters, and names ids.

use anyhow::Result;
use sluice_node_api::Client;

use super::records::Records;
use super::word;
use crate::args::{
    ApprovalListArgs, ListOrder, MountListArgs, NodeListArgs, PointListArgs, RecordFilter,
    TaskListArgs, TestListArgs, TimeFilter, WhoseArgs, WhoseByPolicyArgs,
};

/// The parameters of a list.
pub(super) struct Filter<'a> {
    client: &'a Client,
    pairs: Vec<String>,
    /// Records that need not be asked for.
    known: Vec<&'a Records>,
}

impl<'a> Filter<'a> {
    /// All of a list.
    pub(super) fn new(client: &'a Client) -> Self {
        Self { client, pairs: Vec::new(), known: Vec::new() }
    }

    /// The same, where somebody has all records of a kind already.
    pub(super) fn knowing(mut self, records: &'a Records) -> Self {
        self.known.push(records);
        self
    }

    /// The path of what is asked for.
    pub(super) fn path(&self, path: &str) -> String {
        match self.pairs.is_empty() {
            true => path.to_owned(),
            false => format!("{path}?{}", self.pairs.join("&")),
        }
    }

    /// Whether all of the list is asked for.
    pub(super) fn is_nothing(&self) -> bool {
        self.pairs.is_empty()
    }

    /// What is said as it is.
    pub(super) fn word<T: ToString>(mut self, name: &str, value: Option<T>) -> Self {
        self.pairs.extend(value.map(|value| format!("{name}={}", encoded(&value.to_string()))));
        self
    }

    /// A record that is called by its name.
    pub(super) async fn one(
        mut self,
        name: &str,
        kind: &'static str,
        called: Option<&String>,
    ) -> Result<Self> {
        if let Some(called) = called {
            let id = match self.known.iter().find(|records| records.kind() == kind) {
                Some(records) => word(records.one(called)?, "id"),
                None => word(Records::load(self.client, kind).await?.one(called)?, "id"),
            };
            self.pairs.push(format!("{name}={id}"));
        }
        Ok(self)
    }

    /// A time.
    pub(super) fn time(self, time: &TimeFilter) -> Self {
        self.word("since_ms", time.since).word("until_ms", time.until)
    }

    /// What something is of.
    async fn whose(self, args: &WhoseArgs) -> Result<Self> {
        let filter = self.one("project", "projects", args.project.as_ref()).await?;
        let filter = filter.one("instance", "instances", args.instance.as_ref()).await?;
        filter.one("destination", "destinations", args.destination.as_ref()).await
    }

    /// What something is of, and which policy wanted it.
    pub(super) async fn whose_by_policy(self, args: &WhoseByPolicyArgs) -> Result<Self> {
        let filter = self.whose(&args.whose).await?;
        filter.one("policy", "policies", args.policy.as_ref()).await
    }

    fn order(self, order: Option<ListOrder>) -> Self {
        let word = order.map(|order| match order {
            ListOrder::Oldest => "oldest",
            ListOrder::Newest => "newest",
        });
        self.word("order", word)
    }

    pub(super) async fn tasks(self, args: &TaskListArgs) -> Result<Self> {
        let filter = self.word("state", args.state.as_ref()).word("kind", args.kind.as_ref());
        let filter = filter.whose_by_policy(&args.whose).await?;
        let filter = filter.one("node", "nodes", args.node.as_ref()).await?;
        Ok(filter.time(&args.time).order(args.order))
    }

    pub(super) async fn points(self, args: &PointListArgs) -> Result<Self> {
        let filter = self.whose(&args.whose).await?;
        Ok(filter.time(&args.time).order(args.order))
    }

    pub(super) async fn mounts(self, args: &MountListArgs) -> Result<Self> {
        let filter = self.word("state", args.state.as_ref()).whose(&args.whose).await?;
        let filter = filter.one("node", "nodes", args.node.as_ref()).await?;
        Ok(filter.time(&args.time))
    }

    pub(super) async fn tests(self, args: &TestListArgs) -> Result<Self> {
        let filter = self.word("state", args.state.as_ref());
        let filter = filter.whose_by_policy(&args.whose).await?;
        Ok(filter.time(&args.time))
    }

    pub(super) async fn approvals(self, args: &ApprovalListArgs) -> Result<Self> {
        let filter = self.word("state", args.state.as_ref()).word("action", args.action.as_ref());
        let filter = filter.one("project", "projects", args.project.as_ref()).await?;
        Ok(filter.word("requester", args.requester.as_ref()).time(&args.time))
    }

    pub(super) fn nodes(self, args: &NodeListArgs) -> Self {
        self.word("name", args.name.as_ref()).word("state", args.state.as_ref())
    }

    pub(super) async fn records(self, args: &RecordFilter) -> Result<Self> {
        let filter = self.word("name", args.name.as_ref()).word("tag", args.tag.as_ref());
        let filter = filter.one("project", "projects", args.project.as_ref()).await?;
        let filter = filter.one("node", "nodes", args.node.as_ref()).await?;
        let filter = filter.one("policy", "policies", args.policy.as_ref()).await?;
        let filter = filter.one("destination", "destinations", args.destination.as_ref()).await?;
        let filter = filter.word("cluster", args.cluster.as_ref());
        let filter = filter.word("source", args.source.as_ref()).word("present", args.present);
        Ok(filter.word("paused", args.paused).word("scheme", args.scheme.as_ref()))
    }
}

/// A value as it stands in a URL.
pub(super) fn encoded(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    value.bytes().fold(String::new(), |text, byte| match plain(byte) {
        true => text + &char::from(byte).to_string(),
        false => text + &format!("%{byte:02X}"),
    })
}

#[cfg(test)]
mod tests {
    use super::encoded;

    #[test]
    fn values_are_what_they_were_behind_the_url() {
        assert_eq!(encoded("web-*"), "web-%2A");
        assert_eq!(encoded("a&b=c d"), "a%26b%3Dc%20d");
        assert_eq!(encoded("gr\u{fc}n"), "gr%C3%BCn");
        assert_eq!(encoded("/a b%FF&x=1"), "%2Fa%20b%25FF%26x%3D1");
    }
}
