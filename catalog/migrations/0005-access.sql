-- Second factors, service accounts, sessions one can see, groups, and approvals by a second person.
-- Sessions of before have no name to be ended by: whoever has one logs in again.

ALTER TABLE users ADD COLUMN service BIGINT NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN must_change BIGINT NOT NULL DEFAULT 0;
CREATE TABLE old_passwords (
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE, seq BIGINT NOT NULL,
    password_hash TEXT NOT NULL, PRIMARY KEY (user_id, seq)
);
DELETE FROM sessions;
ALTER TABLE sessions ADD COLUMN id TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN address TEXT NOT NULL DEFAULT '';
CREATE INDEX sessions_by_user ON sessions (user_id, id);
CREATE TABLE totp (
    user_id TEXT NOT NULL PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    sealed TEXT NOT NULL, confirmed BIGINT NOT NULL, last_step BIGINT NOT NULL
);
CREATE TABLE recovery_codes (
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE, code_hash TEXT NOT NULL,
    PRIMARY KEY (user_id, code_hash)
);
CREATE TABLE user_groups (
    id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL UNIQUE, revision BIGINT NOT NULL,
    created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL
);
CREATE TABLE group_members (
    group_id TEXT NOT NULL REFERENCES user_groups (id) ON DELETE CASCADE,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    PRIMARY KEY (group_id, user_id)
);
CREATE INDEX group_members_by_user ON group_members (user_id);
CREATE TABLE group_bindings (
    group_id TEXT NOT NULL REFERENCES user_groups (id) ON DELETE CASCADE, role TEXT NOT NULL,
    project_id TEXT NOT NULL, PRIMARY KEY (group_id, role, project_id)
);
CREATE TABLE approvals (
    id TEXT NOT NULL PRIMARY KEY, project_id TEXT NOT NULL, action TEXT NOT NULL,
    object TEXT NOT NULL, requester_id TEXT NOT NULL, requester TEXT NOT NULL,
    state TEXT NOT NULL, created_ms BIGINT NOT NULL, expires_ms BIGINT NOT NULL,
    decided_ms BIGINT, decider TEXT NOT NULL, reason TEXT NOT NULL, method TEXT NOT NULL,
    path TEXT NOT NULL, headers TEXT NOT NULL, sealed TEXT NOT NULL
);
CREATE INDEX approvals_by_state ON approvals (state, id);
