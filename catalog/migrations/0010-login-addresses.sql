-- From where logins have begun, so that nobody can begin all that there may be.

ALTER TABLE pending_logins ADD COLUMN address TEXT NOT NULL DEFAULT '';
CREATE INDEX pending_logins_by_address ON pending_logins (address);
