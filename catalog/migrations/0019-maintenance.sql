-- Up to when each schedule of work on a destination was decided.
CREATE TABLE maintenance_marks (
    destination_id TEXT NOT NULL REFERENCES destinations (id) ON DELETE CASCADE,
    schedule TEXT NOT NULL, last_due_ms BIGINT NOT NULL, PRIMARY KEY (destination_id, schedule)
);
