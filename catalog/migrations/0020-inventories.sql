-- Places that nodes look through for instances, what was found there, and up to when each of their
-- schedules was decided.

CREATE TABLE inventories (
    id TEXT NOT NULL PRIMARY KEY, project_id TEXT NOT NULL, name TEXT NOT NULL,
    revision BIGINT NOT NULL, created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL,
    body TEXT NOT NULL, UNIQUE (project_id, name)
);
CREATE TABLE inventory_marks (
    inventory_id TEXT NOT NULL REFERENCES inventories (id) ON DELETE CASCADE,
    schedule TEXT NOT NULL, last_due_ms BIGINT NOT NULL, PRIMARY KEY (inventory_id, schedule)
);
CREATE TABLE inventory_looks (
    inventory_id TEXT NOT NULL PRIMARY KEY REFERENCES inventories (id) ON DELETE CASCADE,
    body TEXT NOT NULL
);
-- What is not in here was made by hand. What is gone has a time at which that was seen.
CREATE TABLE found_instances (
    instance_id TEXT NOT NULL PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE,
    inventory_id TEXT NOT NULL REFERENCES inventories (id) ON DELETE CASCADE,
    place TEXT NOT NULL, source TEXT NOT NULL, identity TEXT NOT NULL, format TEXT NOT NULL,
    size_bytes BIGINT NOT NULL, gone_ms BIGINT NOT NULL, UNIQUE (inventory_id, place)
);
CREATE INDEX found_by_gone ON found_instances (gone_ms);
