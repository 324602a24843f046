-- Snapshots of instances that stay at their source, on a node.

CREATE TABLE snapshots (
    id TEXT NOT NULL PRIMARY KEY, project_id TEXT NOT NULL, instance_id TEXT NOT NULL,
    node_id TEXT NOT NULL, policy_id TEXT NOT NULL, rule TEXT NOT NULL, task_id TEXT NOT NULL,
    state TEXT NOT NULL, made_ms BIGINT NOT NULL, expires_ms BIGINT NOT NULL,
    revision BIGINT NOT NULL, created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL,
    images TEXT NOT NULL, message TEXT NOT NULL
);
CREATE INDEX snapshots_by_state ON snapshots (state, id);
CREATE INDEX snapshots_by_project ON snapshots (project_id, id);
CREATE INDEX snapshots_by_instance ON snapshots (instance_id, id);
CREATE INDEX snapshots_there ON snapshots (id) WHERE state <> 'gone';
CREATE INDEX snapshots_gone ON snapshots (updated_ms) WHERE state = 'gone';

-- Restore points that are becoming instances: the record is there, and its images are not yet.
CREATE TABLE imports (
    task_id TEXT NOT NULL PRIMARY KEY, instance_id TEXT NOT NULL, tags TEXT NOT NULL
);
