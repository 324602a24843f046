-- Lists by what they are filtered by, in the order in which they are told.
CREATE INDEX tasks_of_kind ON tasks (kind, id);
CREATE INDEX tasks_of_project_kind ON tasks (project_id, kind, id);
CREATE INDEX tasks_of_policy ON tasks (policy_id, id);
CREATE INDEX tasks_of_destination ON tasks (destination_id, id);
CREATE INDEX tasks_of_node ON tasks (node_id, id);
CREATE INDEX points_by_taken ON points (taken_ms) WHERE removed_ms IS NULL;
CREATE INDEX points_of_project_taken ON points (project_id, taken_ms) WHERE removed_ms IS NULL;
CREATE INDEX points_of_destination ON points (destination_id, taken_ms) WHERE removed_ms IS NULL;
CREATE INDEX restore_tests_by_policy ON restore_tests (policy_id, id);
CREATE INDEX restore_tests_by_destination ON restore_tests (destination_id, id);
CREATE INDEX audit_by_actor ON audit (actor, seq);
CREATE INDEX audit_by_action ON audit (action, seq);
CREATE INDEX audit_by_time ON audit (at_ms);
-- Who sets settings that are based on others waits for whoever does so.
INSERT INTO settings (name, value) VALUES ('lock-settings', '');
