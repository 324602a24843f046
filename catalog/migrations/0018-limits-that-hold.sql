-- Who changes roles counts administrators alone: of two at once, the second sees what the first did.
INSERT INTO settings (name, value) VALUES ('lock-access', '');

-- How large what a running backup protects is, as far as its node has told: it counts for the quota
-- until the restore point does.
ALTER TABLE tasks ADD COLUMN size_bytes BIGINT NOT NULL DEFAULT 0;
