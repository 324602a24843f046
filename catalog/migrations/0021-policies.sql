-- How restore points were made and proven, and the events that their retention waits for.

ALTER TABLE points ADD COLUMN backup_type TEXT NOT NULL DEFAULT '';
ALTER TABLE points ADD COLUMN proof TEXT NOT NULL DEFAULT '';
ALTER TABLE points ADD COLUMN proof_depth TEXT NOT NULL DEFAULT '';
ALTER TABLE points ADD COLUMN proof_ms BIGINT;
CREATE INDEX points_damaged ON points (instance_id, id) WHERE proof = 'damaged';
CREATE INDEX points_full ON points (instance_id, taken_ms) WHERE backup_type = 'full';

-- point_id is empty where the event is one of all restore points of the instance.
CREATE TABLE retention_events (
    id TEXT NOT NULL PRIMARY KEY, project_id TEXT NOT NULL,
    instance_id TEXT NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    point_id TEXT NOT NULL, event TEXT NOT NULL, at_ms BIGINT NOT NULL,
    UNIQUE (instance_id, point_id, event)
);
CREATE INDEX retention_events_by_project ON retention_events (project_id, id);
CREATE INDEX retention_events_by_instance ON retention_events (instance_id, id);
