-- Tasks, events, audit, requests, and what the inventory knows of itself.
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- One count for all records: a revision is never given twice, so an etag of something deleted never fits its successor.
CREATE TABLE revision (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 0),
    latest INTEGER NOT NULL
) STRICT;
INSERT INTO revision VALUES (0, 0);

CREATE TABLE tasks (
    id TEXT PRIMARY KEY,
    resource_id TEXT,
    state TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX tasks_by_resource ON tasks (resource_id, id);
CREATE INDEX tasks_by_state ON tasks (state, id);

-- What a request_id was answered with. Goes with its task.
CREATE TABLE requests (
    caller TEXT NOT NULL,
    method TEXT NOT NULL,
    request_id TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    answer TEXT NOT NULL,
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    UNIQUE (caller, method, request_id)
) STRICT;

CREATE TABLE events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    time INTEGER NOT NULL,
    kind TEXT NOT NULL,
    severity TEXT NOT NULL,
    resource TEXT,
    resource_id TEXT,
    message TEXT NOT NULL,
    details TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_resource ON events (resource_id, sequence);

CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    time INTEGER NOT NULL,
    user TEXT NOT NULL,
    token_id TEXT,
    peer TEXT NOT NULL,
    method TEXT NOT NULL,
    resource TEXT,
    code INTEGER NOT NULL,
    message TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_user ON audit (user, sequence);
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is only ever added to'); END;
CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is only ever added to'); END;
