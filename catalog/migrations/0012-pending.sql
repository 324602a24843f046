-- What backups have stored that are no restore points: those under way, and what interrupted ones left.

CREATE TABLE pending (
    instance_id TEXT NOT NULL, destination_id TEXT NOT NULL, project_id TEXT NOT NULL,
    stored_bytes BIGINT NOT NULL, at_ms BIGINT NOT NULL,
    PRIMARY KEY (instance_id, destination_id)
);
CREATE INDEX pending_by_project ON pending (project_id, stored_bytes);
-- What a project has stored is asked with each word of a backup under a hard limit.
CREATE INDEX held_stored ON held (project_id, stored_bytes);
