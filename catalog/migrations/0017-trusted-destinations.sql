-- Destinations that somebody of the system has written, and requests with a key that are under way.

CREATE TABLE trusted_destinations (
    destination_id TEXT NOT NULL PRIMARY KEY REFERENCES destinations (id) ON DELETE CASCADE
);
-- Only those who manage the system could write to these. Who wrote the others is not known.
INSERT INTO trusted_destinations (destination_id)
SELECT id FROM destinations WHERE project_id = ''
    AND id NOT IN (SELECT resource_id FROM resource_bindings WHERE role IN ('manager', 'admin'))
    AND id NOT IN
        (SELECT resource_id FROM mapped_resource_bindings WHERE role IN ('manager', 'admin'))
    AND id NOT IN
        (SELECT resource_id FROM group_resource_bindings WHERE role IN ('manager', 'admin'));

-- They were kept for a day, and some held tokens of sessions.
DELETE FROM idempotency;
ALTER TABLE idempotency ADD COLUMN claim TEXT NOT NULL DEFAULT '';
ALTER TABLE idempotency ADD COLUMN headers TEXT NOT NULL DEFAULT '{}';
