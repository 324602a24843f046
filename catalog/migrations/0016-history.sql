-- What ended long ago is looked for to be removed. When a lease ends is not asked by time any more.

DROP INDEX tasks_leased;
CREATE INDEX mounts_gone ON mounts (updated_ms) WHERE state = 'gone';
CREATE INDEX plan_runs_by_finished ON plan_runs (finished_ms) WHERE finished_ms IS NOT NULL;
