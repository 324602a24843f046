-- Copies of restore points at other destinations, and where tasks that copy read from.

ALTER TABLE points ADD COLUMN copy_of TEXT NOT NULL DEFAULT '';
CREATE INDEX points_by_copy ON points (copy_of) WHERE copy_of <> '';
ALTER TABLE tasks ADD COLUMN from_id TEXT NOT NULL DEFAULT '';
