-- Columns are BIGINT or TEXT, so that both databases read this file. Times are milliseconds since
-- 1970. Where there is no project, node, ... the column holds the empty text: NULLs are all
-- different from each other, and names would not be unique.

CREATE TABLE projects (
    id TEXT NOT NULL PRIMARY KEY, project_id TEXT NOT NULL, name TEXT NOT NULL,
    revision BIGINT NOT NULL, created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL,
    body TEXT NOT NULL, UNIQUE (project_id, name)
);
CREATE TABLE destinations (
    id TEXT NOT NULL PRIMARY KEY, project_id TEXT NOT NULL, name TEXT NOT NULL,
    revision BIGINT NOT NULL, created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL,
    body TEXT NOT NULL, UNIQUE (project_id, name)
);
CREATE TABLE instances (
    id TEXT NOT NULL PRIMARY KEY, project_id TEXT NOT NULL, name TEXT NOT NULL,
    revision BIGINT NOT NULL, created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL,
    body TEXT NOT NULL, UNIQUE (project_id, name)
);
CREATE TABLE policies (
    id TEXT NOT NULL PRIMARY KEY, project_id TEXT NOT NULL, name TEXT NOT NULL,
    revision BIGINT NOT NULL, created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL,
    body TEXT NOT NULL, UNIQUE (project_id, name)
);
CREATE TABLE nodes (
    id TEXT NOT NULL PRIMARY KEY, project_id TEXT NOT NULL, name TEXT NOT NULL,
    revision BIGINT NOT NULL, created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL,
    body TEXT NOT NULL, UNIQUE (project_id, name)
);
CREATE TABLE node_presence (
    node_id TEXT NOT NULL PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    token_hash TEXT NOT NULL UNIQUE, last_seen_ms BIGINT NOT NULL
);
CREATE TABLE join_tokens (
    token_hash TEXT NOT NULL PRIMARY KEY, created_ms BIGINT NOT NULL, expires_ms BIGINT NOT NULL
);
CREATE TABLE secrets (
    owner TEXT NOT NULL, name TEXT NOT NULL, sealed TEXT NOT NULL, PRIMARY KEY (owner, name)
);
CREATE TABLE assignments (
    policy_id TEXT NOT NULL REFERENCES policies (id) ON DELETE CASCADE,
    instance_id TEXT NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    PRIMARY KEY (policy_id, instance_id)
);
CREATE INDEX assignments_by_instance ON assignments (instance_id);
CREATE TABLE schedule_state (
    policy_id TEXT NOT NULL REFERENCES policies (id) ON DELETE CASCADE,
    schedule TEXT NOT NULL, last_due_ms BIGINT NOT NULL, PRIMARY KEY (policy_id, schedule)
);

CREATE TABLE tasks (
    id TEXT NOT NULL PRIMARY KEY, project_id TEXT NOT NULL, instance_id TEXT NOT NULL,
    policy_id TEXT NOT NULL, destination_id TEXT NOT NULL, kind TEXT NOT NULL,
    state TEXT NOT NULL, priority BIGINT NOT NULL, due_key TEXT UNIQUE,
    wanted_node TEXT NOT NULL, node_id TEXT NOT NULL, attempt BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL, lease_until_ms BIGINT NOT NULL, not_before_ms BIGINT NOT NULL,
    created_ms BIGINT NOT NULL, started_ms BIGINT, finished_ms BIGINT,
    cancel_requested BIGINT NOT NULL, revision BIGINT NOT NULL, spec TEXT NOT NULL,
    progress TEXT NOT NULL, result TEXT NOT NULL, message TEXT NOT NULL
);
CREATE INDEX tasks_by_state ON tasks (state, priority, id);
CREATE INDEX tasks_by_project ON tasks (project_id, id);
CREATE INDEX tasks_by_instance ON tasks (instance_id, state);
CREATE TABLE task_log (
    task_id TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE, seq BIGINT NOT NULL,
    at_ms BIGINT NOT NULL, attempt BIGINT NOT NULL, level TEXT NOT NULL, line TEXT NOT NULL,
    PRIMARY KEY (task_id, seq)
);

CREATE TABLE points (
    id TEXT NOT NULL PRIMARY KEY, project_id TEXT NOT NULL, instance_id TEXT NOT NULL,
    destination_id TEXT NOT NULL, task_id TEXT NOT NULL, point TEXT NOT NULL,
    taken_ms BIGINT NOT NULL, image_bytes BIGINT NOT NULL, new_bytes BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL, removed_ms BIGINT, UNIQUE (destination_id, point)
);
CREATE INDEX points_by_instance ON points (instance_id, taken_ms);
CREATE INDEX points_by_project ON points (project_id, id);

CREATE TABLE users (
    id TEXT NOT NULL PRIMARY KEY, login TEXT NOT NULL UNIQUE, password_hash TEXT NOT NULL,
    disabled BIGINT NOT NULL, created_ms BIGINT NOT NULL
);
CREATE TABLE bindings (
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE, role TEXT NOT NULL,
    project_id TEXT NOT NULL, PRIMARY KEY (user_id, role, project_id)
);
CREATE TABLE sessions (
    token_hash TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_ms BIGINT NOT NULL, expires_ms BIGINT NOT NULL
);
CREATE TABLE api_tokens (
    id TEXT NOT NULL PRIMARY KEY, token_hash TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name TEXT NOT NULL, created_ms BIGINT NOT NULL, expires_ms BIGINT,
    UNIQUE (user_id, name)
);
CREATE TABLE idempotency (
    actor TEXT NOT NULL, idempotency_key TEXT NOT NULL, request_hash TEXT NOT NULL,
    status BIGINT NOT NULL, answer TEXT NOT NULL, created_ms BIGINT NOT NULL,
    PRIMARY KEY (actor, idempotency_key)
);
CREATE TABLE audit (
    seq BIGINT NOT NULL PRIMARY KEY, at_ms BIGINT NOT NULL, actor TEXT NOT NULL,
    action TEXT NOT NULL, object TEXT NOT NULL, project_id TEXT NOT NULL, detail TEXT NOT NULL,
    hash TEXT NOT NULL
);
INSERT INTO settings (name, value) VALUES ('lock-audit', ''), ('lock-dispatch', '');
