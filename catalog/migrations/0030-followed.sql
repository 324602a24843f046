-- What ticks and reports follow. SQLite keeps no statistics: of several indexes that fit, it takes
-- the one of which a statement binds the most columns.

-- Each second is looked what waits, and whose window is over.
DROP INDEX tasks_waiting;
CREATE INDEX tasks_waiting ON tasks (state, not_before_ms) WHERE state = 'queued';
DROP INDEX tasks_too_late;
CREATE INDEX tasks_too_late ON tasks (state, attempt, start_by_ms)
    WHERE state = 'queued' AND attempt = 0;
CREATE INDEX snapshots_expiring ON snapshots (state, expires_ms)
    WHERE state = 'ready' AND expires_ms > 0;
-- Damage is told of when it was found.
CREATE INDEX points_damaged_since ON points (proof_ms) WHERE proof = 'damaged';
-- Reports read what they count by from the index alone.
DROP INDEX points_by_instance;
CREATE INDEX points_by_instance ON points (instance_id, taken_ms, project_id, proof);
DROP INDEX points_full;
CREATE INDEX points_full ON points (instance_id, taken_ms, project_id, backup_type, removed_ms)
    WHERE backup_type = 'full' AND removed_ms IS NULL;
-- For which ends after an event prunes were asked for: DESTINATION/MILLISECONDS, with blanks
-- between them.
ALTER TABLE retention_events ADD COLUMN settled TEXT NOT NULL DEFAULT '';
