//! Nodes and their certificates: who a node is, joining, and certificates that follow others.

use axum::Json;
use axum::extract::{Extension, FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde_json::json;
use sluice_catalog::{
    Ability, AuditEntry, Capabilities, ErrorKind, Installed, Node, NodeId, NodeState, Record, Tx,
    token_hash,
};
use sluice_node_api::{
    Ability as Told, CertificateRequest, Certified, Fingerprint, Hello, Installed as Next, Join,
    Joined, mismatch,
};

use crate::api::Body;
use crate::api::policies::EVERYTHING;
use crate::auth::{NodeActor, bearer};
use crate::authority::Shown;
use crate::places::Stranger;
use crate::problem::{Problem, Result};
use crate::state::{Shared, new_token};

/// How long a certificate is taken after the one that follows it was shown: requests are under way.
const GRACE_MS: u64 = 600_000;

/// What is to be done about a certificate that is good no more.
const AGAIN: &str = "on the server, `sluice node token --for NAME` makes a token with which \
                     `sluice node join NAME` on the node makes it what it was";

fn ended() -> Problem {
    let text = format!("the certificate of this node has ended: {AGAIN}");
    Problem::new(StatusCode::UNAUTHORIZED, "certificate-expired", text)
}

fn unknown() -> Problem {
    let text =
        format!("this certificate is no node's: the node was removed or joined anew; {AGAIN}");
    Problem::new(StatusCode::FORBIDDEN, "node-unknown", text)
}

impl FromRequestParts<Shared> for NodeActor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self> {
        let by_token = match bearer(&parts.headers) {
            Ok(token) => Some(by_token(shared, token).await?),
            Err(_) => None,
        };
        let node = match (parts.extensions.get::<Shown>(), by_token) {
            (Some(shown), by_token) => {
                let node = by_certificate(shared, shown).await?;
                if by_token.is_some_and(|other| other != node) {
                    return Err(Problem::unauthorized());
                }
                node
            }
            (None, Some(node)) => {
                if let Some(stranger) = parts.extensions.get::<Stranger>() {
                    stranger.is_known();
                }
                node
            }
            (None, None) => return Err(Problem::unauthorized()),
        };
        let record = shared.catalog.read().await?.get::<Node>(node, &EVERYTHING).await?;
        if record.body.state == NodeState::Disabled {
            let text = "this node is disabled: an administrator has ended its access";
            return Err(Problem::new(StatusCode::FORBIDDEN, "node-disabled", text));
        }
        Ok(Self(node))
    }
}

/// The node that has a token, and not shown a certificate yet.
async fn by_token(shared: &Shared, token: &str) -> Result<NodeId> {
    match shared.catalog.read().await?.node_by_token(&token_hash(token)).await {
        Ok(node) => Ok(node),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Problem::unauthorized()),
        Err(error) => Err(error.into()),
    }
}

/// The node that has a certificate.
async fn by_certificate(shared: &Shared, shown: &Shown) -> Result<NodeId> {
    let fingerprint = match shown {
        Shown::Ours(fingerprint) => fingerprint.to_string(),
        Shown::Ended(fingerprint) => {
            tracing::warn!("a node shows certificate {fingerprint}, which has ended");
            return Err(ended());
        }
        Shown::Foreign => {
            let text = "this certificate was not made by this server";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "certificate-foreign", text));
        }
    };
    let now = shared.now();
    let known = shared.catalog.read().await?.certificate(&fingerprint).await?;
    let known = known.ok_or_else(unknown)?;
    if known.expires_ms <= now {
        return Err(ended());
    }
    if known.used_ms.is_none() {
        let mut tx = shared.catalog.begin().await?;
        let node = tx.get::<Node>(known.node, &EVERYTHING).await?;
        let had = tx.certificate_used(known.node, &fingerprint, now, now + GRACE_MS).await?;
        if had {
            let detail = json!({"fingerprint": fingerprint});
            tx.audit(did(&node, "node.token-ended", detail), now).await?;
        }
        tx.commit().await?;
    }
    Ok(known.node)
}

fn did(node: &Record<Node>, action: &'static str, detail: serde_json::Value) -> AuditEntry {
    let (actor, object) = (format!("node {}", node.name), node.id.to_string());
    AuditEntry { actor, action, object, project: None, detail }
}

/// What a node told of itself, as it is kept.
///
/// # Errors
/// A problem when it speaks a contract that this server does not.
pub(crate) fn capabilities(hello: Hello) -> Result<Capabilities> {
    if let Some(text) = mismatch(hello.contract) {
        return Err(Problem::new(StatusCode::UPGRADE_REQUIRED, "contract", text));
    }
    let Hello { version, host, slots, kinds, missing, mounts, contract, abilities, installed } =
        hello;
    let ability = |Told { name, works, why, fix }: Told| Ability { name, works, why, fix };
    let abilities = abilities.into_iter().map(ability).collect();
    let installed = installed.map(|one: Next| {
        let Next { version, contract, problem } = one;
        Installed { version, contract, problem }
    });
    Ok(Capabilities {
        version,
        host,
        slots,
        kinds,
        missing,
        mounts,
        contract,
        abilities,
        installed,
    })
}

/// A node joins; or comes back as what it was, with a token for it, or with the key of a
/// certificate that it had.
pub(crate) async fn join(
    State(shared): State<Shared>,
    shown: Option<Extension<Shown>>,
    Body(join): Body<Join>,
) -> Result<Json<Joined>> {
    let now = shared.now();
    let capabilities = capabilities(join.hello)?;
    let mut tx = shared.catalog.begin().await?;
    let bound = tx.use_join_token(&token_hash(&join.token), now).await?;
    let proven = match shown {
        Some(Extension(Shown::Ours(print) | Shown::Ended(print))) => {
            tx.certificate(&print.to_string()).await?.map(|known| known.node)
        }
        _ => None,
    };
    if let (Some(bound), Some(proven)) = (bound, proven)
        && bound != proven
    {
        let text = "this token is for another node than the one that shows a certificate";
        return Err(Problem::new(StatusCode::CONFLICT, "conflict", text));
    }
    let token = new_token("node");
    let known = bound.or(proven);
    let record = match known {
        Some(id) => again(&mut tx, id, &join.name, capabilities, now).await?,
        None => {
            let node = Node { capabilities, ..Node::default() };
            tx.add_node(&join.name, node, &token_hash(&token), now).await?
        }
    };
    let mut joined =
        Joined { node: record.id.to_string(), token, certified: None, again: known.is_some() };
    match join.request {
        Some(request) => {
            // It never had another one: nothing shows this token.
            tx.end_certificates(record.id).await?;
            joined.token = String::new();
            joined.certified = Some(certify(&shared, &mut tx, &record, &request, now).await?.0);
        }
        None => tx.set_node_token(record.id, &token_hash(&joined.token), now).await?,
    }
    let detail = json!({"host": record.body.capabilities.host, "again": joined.again,
        "certificate": joined.certified.is_some()});
    tx.audit(did(&record, "node.join", detail), now).await?;
    tx.commit().await?;
    Ok(Json(joined))
}

/// A node that is there already, as it is now. What it ran before is taken back, and whatever it
/// has shown before counts no more.
async fn again(
    tx: &mut Tx,
    id: NodeId,
    name: &str,
    capabilities: Capabilities,
    now: u64,
) -> Result<Record<Node>> {
    let mut record = tx.get::<Node>(id, &EVERYTHING).await?;
    if record.name != name {
        let text = format!("this node is {}: join by that name", record.name);
        return Err(Problem::new(StatusCode::CONFLICT, "conflict", text));
    }
    record.body.capabilities = capabilities;
    tx.update(&mut record, now).await?;
    tx.end_certificates(id).await?;
    tx.reclaim_node(id, now).await?;
    Ok(record)
}

/// Makes a certificate for a node and notes it.
pub(crate) async fn certify(
    shared: &Shared,
    tx: &mut Tx,
    node: &Record<Node>,
    request: &str,
    now: u64,
) -> Result<(Certified, Fingerprint)> {
    let (certified, print) = shared.authority.issue(node.id, request, now)?;
    tx.add_certificate(node.id, &print.to_string(), now, certified.expires_ms).await?;
    Ok((certified, print))
}

/// A node asks for a certificate that follows the one it has, or its token.
pub(crate) async fn certificate(
    State(shared): State<Shared>,
    NodeActor(id): NodeActor,
    shown: Option<Extension<Shown>>,
    Body(asked): Body<CertificateRequest>,
) -> Result<Json<Certified>> {
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let node = tx.get::<Node>(id, &EVERYTHING).await?;
    let (certified, print) = certify(&shared, &mut tx, &node, &asked.request, now).await?;
    let follows = if shown.is_some() { "certificate" } else { "token" };
    let detail = json!({"fingerprint": print.to_string(), "follows": follows,
        "expires_ms": certified.expires_ms});
    tx.audit(did(&node, "node.certificate", detail), now).await?;
    tx.commit().await?;
    Ok(Json(certified))
}
