-- What lists and ticks look for, and the ledger added up: days of what was moved, and with each
-- level the byte-seconds of all before it. Those can be more than a BIGINT holds, so they are
-- sum_high times 2^40 plus sum_low.

CREATE INDEX tasks_by_state_id ON tasks (state, id);
CREATE INDEX tasks_by_instance_id ON tasks (instance_id, id);
CREATE INDEX tasks_by_created ON tasks (created_ms, state, kind);
CREATE INDEX tasks_by_node ON tasks (node_id, state) WHERE state IN ('queued', 'running');
CREATE INDEX tasks_by_finished ON tasks (finished_ms, kind, state);
CREATE INDEX tasks_leased ON tasks (lease_until_ms) WHERE state = 'running';
CREATE INDEX tasks_waiting ON tasks (not_before_ms) WHERE state = 'queued';
CREATE INDEX tasks_too_late ON tasks (start_by_ms) WHERE state = 'queued' AND attempt = 0;
CREATE INDEX points_there ON points (id) WHERE removed_ms IS NULL;
CREATE INDEX points_of_instance ON points (instance_id, id) WHERE removed_ms IS NULL;
CREATE INDEX points_of_project ON points (project_id, id) WHERE removed_ms IS NULL;
CREATE INDEX instances_by_project ON instances (project_id, id);
CREATE INDEX held_by_last_good ON held (last_good_ms);
CREATE INDEX idempotency_by_time ON idempotency (created_ms);
CREATE INDEX transfers_by_instance ON transfers (instance_id, at_ms);

CREATE TABLE usage_days (
    day_ms BIGINT NOT NULL, project_id TEXT NOT NULL, policy_id TEXT NOT NULL,
    destination_id TEXT NOT NULL, kind TEXT NOT NULL, tasks BIGINT NOT NULL,
    logical_bytes BIGINT NOT NULL, unique_bytes BIGINT NOT NULL, shared_bytes BIGINT NOT NULL,
    transferred_bytes BIGINT NOT NULL,
    PRIMARY KEY (day_ms, project_id, policy_id, destination_id, kind)
);
INSERT INTO usage_days SELECT at_ms / 86400000 * 86400000, project_id, policy_id, destination_id,
    kind, COUNT(*), CAST(SUM(logical_bytes) AS BIGINT), CAST(SUM(unique_bytes) AS BIGINT),
    CAST(SUM(shared_bytes) AS BIGINT), CAST(SUM(transferred_bytes) AS BIGINT)
    FROM transfers
    GROUP BY at_ms / 86400000 * 86400000, project_id, policy_id, destination_id, kind;

ALTER TABLE levels ADD COLUMN sum_high BIGINT NOT NULL DEFAULT 0;
ALTER TABLE levels ADD COLUMN sum_low BIGINT NOT NULL DEFAULT 0;
-- What was there before is added up in whole MiB.
UPDATE levels SET sum_high = s.total / 1048576, sum_low = s.total % 1048576 * 1048576
    FROM (SELECT instance_id, destination_id, policy_id, at_ms,
        CAST(COALESCE(SUM(held) OVER (PARTITION BY instance_id, destination_id, policy_id
            ORDER BY at_ms ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS BIGINT) AS total
        FROM (SELECT instance_id, destination_id, policy_id, at_ms, stored_bytes / 1048576 *
            (LEAD(at_ms) OVER (PARTITION BY instance_id, destination_id, policy_id ORDER BY at_ms)
            / 1000 - at_ms / 1000) AS held FROM levels) AS spans) AS s
    WHERE levels.instance_id = s.instance_id AND levels.destination_id = s.destination_id
    AND levels.policy_id = s.policy_id AND levels.at_ms = s.at_ms;
-- The newest level of each.
CREATE TABLE series (
    instance_id TEXT NOT NULL, destination_id TEXT NOT NULL, policy_id TEXT NOT NULL,
    project_id TEXT NOT NULL, at_ms BIGINT NOT NULL, stored_bytes BIGINT NOT NULL,
    sum_high BIGINT NOT NULL, sum_low BIGINT NOT NULL,
    PRIMARY KEY (instance_id, destination_id, policy_id)
);
INSERT INTO series SELECT instance_id, destination_id, policy_id, project_id, at_ms,
    stored_bytes, sum_high, sum_low FROM levels l WHERE at_ms = (SELECT MAX(at_ms) FROM levels b
    WHERE b.instance_id = l.instance_id AND b.destination_id = l.destination_id
    AND b.policy_id = l.policy_id);
CREATE INDEX series_by_project ON series (project_id);

-- Messages that wait to be sent.
CREATE TABLE notices (
    id TEXT NOT NULL PRIMARY KEY, channel TEXT NOT NULL, created_ms BIGINT NOT NULL,
    not_before_ms BIGINT NOT NULL, attempts BIGINT NOT NULL, body TEXT NOT NULL,
    failure TEXT NOT NULL
);
CREATE INDEX notices_by_time ON notices (not_before_ms);
