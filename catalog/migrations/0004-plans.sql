-- Restore tests with what they prove, recovery plans, and what became of these.

CREATE TABLE restore_tests (
    id TEXT NOT NULL PRIMARY KEY, project_id TEXT NOT NULL, instance_id TEXT NOT NULL,
    point_id TEXT NOT NULL, destination_id TEXT NOT NULL, policy_id TEXT NOT NULL,
    task_id TEXT NOT NULL, state TEXT NOT NULL, revision BIGINT NOT NULL,
    created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL, spec TEXT NOT NULL,
    report TEXT NOT NULL, message TEXT NOT NULL, screenshot TEXT NOT NULL, console TEXT NOT NULL
);
CREATE INDEX restore_tests_by_state ON restore_tests (state, id);
CREATE INDEX restore_tests_by_project ON restore_tests (project_id, id);
CREATE INDEX restore_tests_by_instance ON restore_tests (instance_id, id);

CREATE TABLE plans (
    id TEXT NOT NULL PRIMARY KEY, project_id TEXT NOT NULL, name TEXT NOT NULL,
    revision BIGINT NOT NULL, created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL,
    body TEXT NOT NULL, UNIQUE (project_id, name)
);
CREATE TABLE plan_marks (
    plan_id TEXT NOT NULL REFERENCES plans (id) ON DELETE CASCADE,
    schedule TEXT NOT NULL, last_due_ms BIGINT NOT NULL, PRIMARY KEY (plan_id, schedule)
);
CREATE TABLE plan_runs (
    id TEXT NOT NULL PRIMARY KEY, project_id TEXT NOT NULL, plan_id TEXT NOT NULL,
    plan_name TEXT NOT NULL, mode TEXT NOT NULL, state TEXT NOT NULL, due_key TEXT UNIQUE,
    revision BIGINT NOT NULL, created_ms BIGINT NOT NULL, finished_ms BIGINT,
    message TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX plan_runs_by_state ON plan_runs (state, id);
CREATE INDEX plan_runs_by_project ON plan_runs (project_id, id);
CREATE INDEX plan_runs_by_plan ON plan_runs (plan_id, id);
