-- Lists follow an index for each way in which a row may be seen, with what orders them behind it.

-- Nearly all restore points have no time at which they were removed. Over all of them, an index of
-- that time is what SQLite takes for a narrow choice, and a list sorts millions of rows. It is only
-- asked for what was removed at one time.
DROP INDEX points_by_removed;
CREATE INDEX points_by_removed ON points (removed_ms) WHERE removed_ms IS NOT NULL;

CREATE INDEX tasks_by_project_state ON tasks (project_id, state, id);
-- Mounts that are gone stay in the table.
CREATE INDEX mounts_by_state_id ON mounts (state, id);
CREATE INDEX mounts_there ON mounts (id) WHERE state <> 'gone';
CREATE INDEX audit_by_project ON audit (project_id, seq);
CREATE INDEX audit_by_object ON audit (object, seq);
