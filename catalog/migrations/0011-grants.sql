-- Roles on single resources. Ids are unique among all kinds, and never used again.

CREATE TABLE resource_bindings (
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE, role TEXT NOT NULL,
    kind TEXT NOT NULL, resource_id TEXT NOT NULL, PRIMARY KEY (user_id, role, resource_id)
);
CREATE INDEX resource_bindings_by_resource ON resource_bindings (resource_id);
CREATE TABLE mapped_resource_bindings (
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE, role TEXT NOT NULL,
    kind TEXT NOT NULL, resource_id TEXT NOT NULL, PRIMARY KEY (user_id, role, resource_id)
);
CREATE INDEX mapped_resource_bindings_by_resource ON mapped_resource_bindings (resource_id);
CREATE TABLE group_resource_bindings (
    group_id TEXT NOT NULL REFERENCES user_groups (id) ON DELETE CASCADE, role TEXT NOT NULL,
    kind TEXT NOT NULL, resource_id TEXT NOT NULL, PRIMARY KEY (group_id, role, resource_id)
);
CREATE INDEX group_resource_bindings_by_resource ON group_resource_bindings (resource_id);
-- What comes with an instance is found by it.
CREATE INDEX mounts_by_instance ON mounts (instance_id, id);
