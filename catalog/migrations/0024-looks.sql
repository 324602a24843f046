-- Questions about the files of mounts whose node waits at another server, and what it answers.
-- Each lives for a minute or two: a server asks here only when the node is not heard at its own.
CREATE TABLE looks (
    id TEXT NOT NULL PRIMARY KEY,
    node_id TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    created_ms BIGINT NOT NULL, taken_ms BIGINT NOT NULL,
    question TEXT NOT NULL, answer TEXT NOT NULL
);
CREATE INDEX looks_by_taken ON looks (taken_ms, created_ms);
