use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::grant::Grant;
use crate::id::{GroupId, ProviderId, SessionId, TokenId, UserId};

/// Somebody who may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// The name to log in with.
    pub login: String,
    /// Argon2id hash of the password; empty for a service account and for who comes from an
    /// identity provider, which have none.
    pub password_hash: String,
    /// Whether it is a program, which has API tokens and cannot log in.
    pub service: bool,
    /// Whether somebody else has set the password, so that it must be changed first of all.
    pub must_change: bool,
    /// Whether logging in is refused.
    pub disabled: bool,
    /// Who says who this is, when it is not this server.
    pub provider: Option<ProviderId>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
}

/// What a user may do where it is bound.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Sees everything but secrets and the audit log.
    Viewer,
    /// Starts and cancels backups and restores besides.
    Operator,
    /// Changes instances, policies and destinations besides.
    Manager,
    /// Everything: users, nodes, projects, the audit log.
    Admin,
}

impl Role {
    /// Every role, weakest first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::Manager, Self::Admin];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Manager => "manager",
            Self::Admin => "admin",
        }
    }

    /// The role of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.word() == word)
    }
}

/// A grant and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// Who has it.
    pub user: UserId,
    /// What it is.
    pub grant: Grant,
}

/// Who is behind a session or an API token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Who it is.
    pub user: User,
    /// What they may do, by themselves and by their groups.
    pub grants: Vec<Grant>,
    /// Whether they have logged in; without, an API token was shown.
    pub logged_in: bool,
    /// Whether logging in takes a second factor.
    pub second_factor: bool,
}

/// A session, without what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSession {
    /// Its id.
    pub id: SessionId,
    /// The hash of what is shown.
    pub token_hash: String,
    /// From where it was begun.
    pub address: String,
    /// When, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: u64,
}

/// A group of users: what it may do, each of them may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// For people; unique.
    pub name: String,
    /// Grows with every change.
    pub revision: u64,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it was changed last, in milliseconds since 1970.
    pub updated_ms: u64,
    /// Who is in it.
    pub members: Vec<UserId>,
    /// What they may do.
    pub grants: Vec<Grant>,
}

/// An API token, without what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// For people.
    pub name: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
}
