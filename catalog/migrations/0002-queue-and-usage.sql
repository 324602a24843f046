-- Start windows, what was missed, quotas, and the ledger of what was used. Bytes that are held are
-- kept per instance, destination and policy of the last backup there.

ALTER TABLE tasks ADD COLUMN start_by_ms BIGINT;
CREATE INDEX tasks_by_kind ON tasks (project_id, kind, created_ms);
CREATE INDEX points_by_removed ON points (removed_ms);
CREATE TABLE missed (
    policy_id TEXT NOT NULL REFERENCES policies (id) ON DELETE CASCADE, schedule TEXT NOT NULL,
    instance_id TEXT NOT NULL, reason TEXT NOT NULL, project_id TEXT NOT NULL,
    first_ms BIGINT NOT NULL, last_ms BIGINT NOT NULL, times BIGINT NOT NULL,
    PRIMARY KEY (policy_id, schedule, instance_id, reason)
);
CREATE TABLE quotas (
    project_id TEXT NOT NULL PRIMARY KEY REFERENCES projects (id) ON DELETE CASCADE,
    updated_ms BIGINT NOT NULL, body TEXT NOT NULL
);
CREATE TABLE held (
    instance_id TEXT NOT NULL, destination_id TEXT NOT NULL, project_id TEXT NOT NULL,
    policy_id TEXT NOT NULL, stored_bytes BIGINT NOT NULL, front_end_bytes BIGINT NOT NULL,
    last_good_ms BIGINT NOT NULL, PRIMARY KEY (instance_id, destination_id)
);
CREATE INDEX held_by_project ON held (project_id);
CREATE TABLE transfers (
    task_id TEXT NOT NULL PRIMARY KEY, at_ms BIGINT NOT NULL, project_id TEXT NOT NULL,
    instance_id TEXT NOT NULL, policy_id TEXT NOT NULL, destination_id TEXT NOT NULL,
    kind TEXT NOT NULL, logical_bytes BIGINT NOT NULL, unique_bytes BIGINT NOT NULL,
    shared_bytes BIGINT NOT NULL, transferred_bytes BIGINT NOT NULL
);
CREATE INDEX transfers_by_time ON transfers (at_ms);
CREATE TABLE levels (
    instance_id TEXT NOT NULL, destination_id TEXT NOT NULL, policy_id TEXT NOT NULL,
    at_ms BIGINT NOT NULL, project_id TEXT NOT NULL, stored_bytes BIGINT NOT NULL,
    front_end_bytes BIGINT NOT NULL,
    PRIMARY KEY (instance_id, destination_id, policy_id, at_ms)
);
INSERT INTO settings (name, value) VALUES ('changes-policies', '0');
