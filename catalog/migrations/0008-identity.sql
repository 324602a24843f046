-- Who people are, as identity providers say it: the providers, which user comes from which, what
-- their groups there let them do here, and logins that have begun and not ended.

CREATE TABLE identity_providers (
    id TEXT NOT NULL PRIMARY KEY, project_id TEXT NOT NULL, name TEXT NOT NULL,
    revision BIGINT NOT NULL, created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL,
    body TEXT NOT NULL, UNIQUE (project_id, name)
);
ALTER TABLE users ADD COLUMN provider_id TEXT NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN subject TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX users_by_subject ON users (provider_id, subject) WHERE subject <> '';
CREATE TABLE mapped_bindings (
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE, role TEXT NOT NULL,
    project_id TEXT NOT NULL, PRIMARY KEY (user_id, role, project_id)
);
CREATE TABLE mapped_members (
    group_id TEXT NOT NULL REFERENCES user_groups (id) ON DELETE CASCADE,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    PRIMARY KEY (group_id, user_id)
);
CREATE INDEX mapped_members_by_user ON mapped_members (user_id);
CREATE TABLE pending_logins (
    token_hash TEXT NOT NULL PRIMARY KEY,
    provider_id TEXT NOT NULL REFERENCES identity_providers (id) ON DELETE CASCADE,
    sealed TEXT NOT NULL, expires_ms BIGINT NOT NULL
);
