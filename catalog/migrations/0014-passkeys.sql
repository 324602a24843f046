-- Passkeys, and what was asked of browsers and is not answered yet.

CREATE TABLE passkeys (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE, name TEXT NOT NULL,
    credential_id TEXT NOT NULL UNIQUE, public_key TEXT NOT NULL, counter BIGINT NOT NULL,
    model TEXT NOT NULL, transports TEXT NOT NULL, verified BIGINT NOT NULL,
    backup_eligible BIGINT NOT NULL, backed_up BIGINT NOT NULL, created_ms BIGINT NOT NULL,
    used_ms BIGINT, UNIQUE (user_id, name)
);
CREATE TABLE passkey_challenges (
    token_hash TEXT NOT NULL PRIMARY KEY, purpose TEXT NOT NULL, user_id TEXT NOT NULL,
    session_hash TEXT NOT NULL, challenge TEXT NOT NULL, address TEXT NOT NULL,
    expires_ms BIGINT NOT NULL
);
CREATE INDEX passkey_challenges_by_address ON passkey_challenges (address, expires_ms);
