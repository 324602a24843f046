-- Certificates of nodes, what nodes are configured to do, and sources that somebody of the system
-- has allowed. Those that are there already were named when any path was.

CREATE TABLE node_certificates (
    fingerprint TEXT NOT NULL PRIMARY KEY,
    node_id TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    issued_ms BIGINT NOT NULL, expires_ms BIGINT NOT NULL, used_ms BIGINT
);
CREATE INDEX node_certificates_by_node ON node_certificates (node_id);
ALTER TABLE join_tokens ADD COLUMN node_id TEXT NOT NULL DEFAULT '';
CREATE TABLE node_configs (
    id TEXT NOT NULL PRIMARY KEY, project_id TEXT NOT NULL, name TEXT NOT NULL,
    revision BIGINT NOT NULL, created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL,
    body TEXT NOT NULL, UNIQUE (project_id, name)
);
CREATE TABLE trusted_sources (
    instance_id TEXT NOT NULL PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE
);
INSERT INTO trusted_sources (instance_id) SELECT id FROM instances;
