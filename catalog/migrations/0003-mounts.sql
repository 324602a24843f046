-- Restore points that a node shows as disks.

CREATE TABLE mounts (
    id TEXT NOT NULL PRIMARY KEY, project_id TEXT NOT NULL, instance_id TEXT NOT NULL,
    point_id TEXT NOT NULL, destination_id TEXT NOT NULL, node_id TEXT NOT NULL,
    task_id TEXT NOT NULL, state TEXT NOT NULL, lease_end_ms BIGINT NOT NULL,
    revision BIGINT NOT NULL, created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL,
    spec TEXT NOT NULL, place TEXT NOT NULL, message TEXT NOT NULL
);
CREATE INDEX mounts_by_state ON mounts (state, lease_end_ms);
CREATE INDEX mounts_by_node ON mounts (node_id, state);
CREATE INDEX mounts_by_project ON mounts (project_id, id);
