-- What a node must be able to do for a task, beside its kind: words, with commas between them.
ALTER TABLE tasks ADD COLUMN needs TEXT NOT NULL DEFAULT '';
