//! Who may do what on a server: users, groups, second factors, approvals.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::lists::ApprovalListArgs;

/// Show and change users of a server, their second factors, sessions and tokens
///
/// Passwords come from SLUICE_PASSWORD_FILE and SLUICE_NEW_PASSWORD_FILE, codes from
/// SLUICE_CODE_FILE (the first line each), or a prompt.
#[derive(Debug, Args)]
pub(crate) struct UserArgs {
    #[command(subcommand)]
    pub(crate) command: UserCommand,
}

/// What can be done with users.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// List users
    #[command(after_help = "Example:\n  sluice user list")]
    List,
    /// Make a user, who changes the password at the first login
    #[command(after_help = "\
Examples:
  sluice user add anna --role manager@shop
  sluice user add otto --provider company
  sluice user add ci --service --role operator@shop")]
    Add {
        /// The name to log in with
        name: String,
        /// What they may do: viewer, operator, manager or admin, everywhere, in a project, or on
        /// one record: instance, policy, destination, node or plan
        #[arg(long = "role", value_name = "ROLE[@PROJECT|@KIND:NAME]")]
        roles: Vec<String>,
        /// A program, which has API tokens and no password
        #[arg(long, conflicts_with = "keep_password")]
        service: bool,
        /// Somebody who logs in by this identity provider and has no password here
        #[arg(long, value_name = "NAME", conflicts_with_all = ["keep_password", "service"])]
        provider: Option<String>,
        /// Let the password stay
        #[arg(long)]
        keep_password: bool,
    },
    /// Remove a user
    #[command(after_help = "Example:\n  sluice user remove anna")]
    Remove {
        /// The user
        name: String,
    },
    /// Replace what a user may do
    #[command(after_help = "\
Examples:
  sluice user grant anna manager@shop viewer
  sluice user grant otto operator@instance:shop/web-1")]
    Grant {
        /// The user
        name: String,
        /// viewer, operator, manager or admin, everywhere, in a project, or on one record:
        /// instance, policy, destination, node or plan; nothing for none
        #[arg(value_name = "ROLE[@PROJECT|@KIND:NAME]")]
        roles: Vec<String>,
    },
    /// Change your password, or as an administrator somebody's
    #[command(after_help = "Examples:\n  sluice user password\n  sluice user password anna")]
    Password {
        /// Somebody else, who must change it again at the next login
        name: Option<String>,
    },
    /// Second factors: codes of an authenticator app
    Totp {
        #[command(subcommand)]
        command: TotpCommand,
    },
    /// Passkeys, by which you log in with a browser; one is made at https://HOST:PORT/account
    Passkey {
        #[command(subcommand)]
        command: PasskeyCommand,
    },
    /// Sessions that last
    Session {
        #[command(subcommand)]
        command: SessionCommand,
    },
    /// API tokens: your own, or those of a service account
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
}

/// What can be done with second factors.
#[derive(Debug, Subcommand)]
pub(crate) enum TotpCommand {
    /// Get a secret for an authenticator app, as a picture to scan; then confirm it
    #[command(after_help = "Example:\n  sluice user totp enrol && sluice user totp confirm")]
    Enrol,
    /// Confirm the secret with a code; from then on, logging in takes one
    ///
    /// Prints recovery codes, each good for one login without the app: keep them elsewhere.
    #[command(after_help = "Example:\n  sluice user totp confirm")]
    Confirm,
    /// Stop using a second factor; as an administrator, reset that of somebody who has lost it
    #[command(after_help = "\
Examples:
  sluice user totp disable
  sluice user totp disable anna")]
    Disable {
        /// Somebody else, whose sessions end by that
        name: Option<String>,
    },
}

/// What can be done with passkeys.
#[derive(Debug, Subcommand)]
pub(crate) enum PasskeyCommand {
    /// List your passkeys
    #[command(after_help = "Example:\n  sluice user passkey list")]
    List,
    /// Give a passkey of yours another name
    #[command(after_help = "Example:\n  sluice user passkey rename laptop \"old laptop\"")]
    Rename {
        /// Its name or id
        passkey: String,
        /// What it is to be called
        name: String,
    },
    /// Remove a passkey of yours; or, as an administrator, all of somebody who has lost them
    ///
    /// Your own takes your password, and a code of the app or a recovery code.
    #[command(after_help = "\
Examples:
  sluice user passkey remove \"old laptop\"
  sluice user passkey remove --user anna")]
    Remove {
        /// Its name or id
        #[arg(required_unless_present = "user")]
        passkey: Option<String>,
        /// All of this user's, whose sessions end by that
        #[arg(long, value_name = "NAME", conflicts_with = "passkey")]
        user: Option<String>,
    },
}

/// What can be done with sessions.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// List your sessions
    #[command(after_help = "Example:\n  sluice user session list")]
    List,
    /// End a session of yours; or, as an administrator, all of somebody's
    #[command(after_help = "\
Examples:
  sluice user session end 0193a2b4-...
  sluice user session end --user anna")]
    End {
        /// Its id
        #[arg(required_unless_present = "user")]
        id: Option<String>,
        /// All of this user's
        #[arg(long, value_name = "NAME", conflicts_with = "id")]
        user: Option<String>,
    },
}

/// What can be done with API tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// List API tokens
    #[command(after_help = "Example:\n  sluice user token list --user ci")]
    List {
        /// Those of this service account
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Make an API token, and print it
    #[command(after_help = "Example:\n  sluice user token add nightly --user ci > token")]
    Add {
        /// For people
        name: String,
        /// For this service account
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Remove an API token
    #[command(after_help = "Example:\n  sluice user token remove 0193a2b4-... --user ci")]
    Remove {
        /// Its id
        id: String,
        /// Of this service account
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
}

/// Show and change groups of users: what a group may do, each member may
#[derive(Debug, Args)]
pub(crate) struct GroupArgs {
    #[command(subcommand)]
    pub(crate) command: GroupCommand,
}

/// What can be done with groups.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// List groups
    #[command(after_help = "Example:\n  sluice group list")]
    List,
    /// Show a group
    #[command(after_help = "Example:\n  sluice group show operators")]
    Show {
        /// The group
        name: String,
    },
    /// Make a group, or replace who is in it and what they may do
    #[command(
        after_help = "Example:\n  sluice group set shop-team --member anna --role manager@shop"
    )]
    Set {
        /// The group
        name: String,
        /// Somebody who is in it
        #[arg(long = "member", value_name = "NAME")]
        members: Vec<String>,
        /// What they may do: viewer, operator, manager or admin, everywhere, in a project, or on
        /// one record: instance, policy, destination, node or plan
        #[arg(long = "role", value_name = "ROLE[@PROJECT|@KIND:NAME]")]
        roles: Vec<String>,
    },
    /// Remove a group; its members stay
    #[command(after_help = "Example:\n  sluice group remove shop-team")]
    Remove {
        /// The group
        name: String,
    },
}

/// Decide on requests that wait for a second person
#[derive(Debug, Args)]
pub(crate) struct ApprovalArgs {
    #[command(subcommand)]
    pub(crate) command: ApprovalCommand,
}

/// What can be done with approvals.
#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalCommand {
    /// List requests that wait, or have waited
    #[command(after_help = "Example:\n  sluice approval list --state pending")]
    List(ApprovalListArgs),
    /// Show all of a request, without its secrets
    #[command(after_help = "Example:\n  sluice approval show 0193a2b4-...")]
    Show {
        /// Its id
        id: String,
    },
    /// Agree to somebody else's request, which is done at once
    #[command(
        after_help = "Example:\n  sluice approval approve 0193a2b4-... --reason 'moved to blog'"
    )]
    Approve {
        /// Its id
        id: String,
        /// Why
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Do not agree to a request, or withdraw one of your own
    #[command(
        after_help = "Example:\n  sluice approval reject 0193a2b4-... --reason 'still needed'"
    )]
    Reject {
        /// Its id
        id: String,
        /// Why
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
}

/// What a server asks of passwords, second factors, and a second person
#[derive(Debug, Args)]
pub(crate) struct AccessArgs {
    #[command(subcommand)]
    pub(crate) command: AccessCommand,
}

/// What can be done with the rules of access.
#[derive(Debug, Subcommand)]
pub(crate) enum AccessCommand {
    /// Show the rules
    #[command(after_help = "Example:\n  sluice access show > rules.json")]
    Show,
    /// Set the rules; what is left out is what it was at first
    #[command(after_help = "Example:\n  sluice access set --spec rules.json")]
    Set {
        /// A file of YAML or JSON; `-` for standard input
        #[arg(long, value_name = "FILE")]
        spec: PathBuf,
    },
}

/// Show and change identity providers: others who say who people are, and in which groups
///
/// A provider of OpenID Connect is asked with a browser (`sluice login --oidc NAME`), and by the
/// server, which is its client. A directory (LDAP) is asked by the server with the name and the
/// password that people have there (`sluice login --ldap NAME --user USER`). `mappings` say what
/// its groups let people do: `group`, `roles` (viewer, operator, manager or admin, everywhere,
/// `@PROJECT` or `@KIND:NAME`) and `groups` of this server. They are looked at anew with each
/// login. Who comes from a provider has neither password nor API tokens here, and second factors
/// are the provider's affair.
#[derive(Debug, Args)]
pub(crate) struct IdentityProviderArgs {
    #[command(subcommand)]
    pub(crate) command: IdentityProviderCommand,
}

/// What can be done with identity providers.
#[derive(Debug, Subcommand)]
pub(crate) enum IdentityProviderCommand {
    /// List them
    #[command(after_help = "Example:\n  sluice identity-provider list")]
    List,
    /// Show one; its secret cannot be read back
    #[command(after_help = "Example:\n  sluice identity-provider show company")]
    Show {
        /// Its name
        name: String,
    },
    /// Make one, or change what it says; the sessions of all who come from it end
    #[command(after_help = "\
Examples:
  echo '{\"via\": {\"kind\": \"ldap\", \"urls\": [\"ldaps://dc1.example.org\"],
    \"bind_dn\": \"cn=sluice,dc=example,dc=org\", \"user_base\": \"dc=example,dc=org\"},
    \"create_users\": true}' | sluice identity-provider set office --spec -
  echo '{\"via\": {\"kind\": \"oidc\", \"issuer\": \"https://id.example.org\",
    \"client_id\": \"sluice\"}, \"create_users\": true,
    \"mappings\": [{\"group\": \"backup\", \"roles\": [\"operator@shop\"]}]}' |
    sluice identity-provider set company --spec -")]
    Set {
        /// Its name
        name: String,
        /// What it says, as YAML or JSON; `-` for standard input
        #[arg(long, value_name = "FILE")]
        spec: PathBuf,
    },
    /// Set the secret by which the server shows the provider who it is
    #[command(after_help = "Example:\n  sluice identity-provider secret company --secret-file s")]
    Secret {
        /// Its name
        name: String,
        /// A file with the secret; `-` for standard input
        #[arg(long, value_name = "FILE")]
        secret_file: PathBuf,
    },
    /// Try whether one can be asked, and tell which step fails; no session begins
    ///
    /// With --user, somebody is looked up in a directory, with their groups and what these let them
    /// do; with --password, their password is tried, from SLUICE_PASSWORD_FILE or a prompt.
    #[command(after_help = "\
Examples:
  sluice identity-provider test company
  sluice identity-provider test office --user anna --password")]
    Test {
        /// Its name
        name: String,
        /// Somebody of a directory
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Try their password, too
        #[arg(long, requires = "user")]
        password: bool,
    },
    /// Remove one from which no user comes
    #[command(after_help = "Example:\n  sluice identity-provider remove company")]
    Remove {
        /// Its name
        name: String,
    },
}
