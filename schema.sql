-- The current schema. src/store/schema_version.rs upgrades older files to it.
--
-- Times are milliseconds since the Unix epoch. `seq` is the list position: the order in which the
-- writer stored the rows. Ids don't order anything, because they are generated before the commit or
-- chosen by the caller. `revision` counts stored changes and determines the ETag. `email_key` holds the
-- form of an email address in which addresses are compared. JSON is stored as text and written only by the
-- server.

-- Facts about this file, one row for each name. `cursor_key` seals list cursors and identifies files that
-- share an origin; `last_backup_at` is the time of the last verified backup; `settled_time` is the latest
-- time that was trusted, and `clock_accepted_at` the time that the operator accepted last, both in
-- milliseconds.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The platform's settings, in one row. Their initial values come from the configuration.
-- `known_prefixes` has every prefix of secrets that is or was among the settings, and whether a secret
-- with a wrong checksum is refused without a lookup: no such secret was valid when the prefix was added.
CREATE TABLE settings (
    one              INTEGER PRIMARY KEY CHECK (one = 1),
    settings         TEXT NOT NULL,
    known_prefixes   TEXT NOT NULL,
    revision         INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL
) STRICT;

-- Deleted organizations stay as tombstones (`deleted_at`), so that an id is never reused and old audit
-- events keep their meaning. `limits` is a JSON list; NULL means that those of the plan apply.
CREATE TABLE organizations (
    seq        INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    email      TEXT NOT NULL,
    plan       TEXT NOT NULL,
    status     TEXT NOT NULL CHECK (status IN ('active', 'suspended')),
    metadata   TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER,
    revision   INTEGER NOT NULL,
    limits     TEXT
) STRICT;

-- Finds organizations on a plan; a plan in use can't be removed.
CREATE INDEX organizations_plan ON organizations (plan, seq) WHERE deleted_at IS NULL;
CREATE INDEX organizations_status ON organizations (status, seq) WHERE deleted_at IS NULL;

CREATE TABLE users (
    seq         INTEGER PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    email       TEXT NOT NULL,
    email_key   TEXT NOT NULL,
    name        TEXT NOT NULL,
    external_id TEXT,
    status      TEXT NOT NULL CHECK (status IN ('active', 'suspended')),
    metadata    TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    deleted_at  INTEGER,
    revision    INTEGER NOT NULL
) STRICT;

-- An email address belongs to at most one user that isn't deleted; deleting the user frees it.
CREATE UNIQUE INDEX users_email ON users (email_key) WHERE deleted_at IS NULL;
CREATE INDEX users_status ON users (status, seq) WHERE deleted_at IS NULL;
CREATE INDEX users_external_id ON users (external_id) WHERE external_id IS NOT NULL;

-- Users' roles in organizations. AUTOINCREMENT: the row of an ended membership is deleted, and its
-- `seq` must not be reused while a client pages through the list.
CREATE TABLE memberships (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    user_id         TEXT NOT NULL REFERENCES users (id),
    role            TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    revision        INTEGER NOT NULL,
    UNIQUE (organization_id, user_id)
) STRICT;

CREATE INDEX memberships_user ON memberships (user_id);

-- The scope catalogue. AUTOINCREMENT for the same reason as in memberships.
CREATE TABLE scopes (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    scope       TEXT NOT NULL UNIQUE,
    description TEXT,
    built_in    INTEGER NOT NULL,
    created_at  INTEGER NOT NULL
) STRICT;

INSERT INTO scopes (scope, description, built_in, created_at) VALUES
    ('admin:users', 'Administer users and memberships', 1, 0),
    ('admin:orgs', 'Administer organizations', 1, 0),
    ('admin:keys', 'Administer API keys', 1, 0),
    ('admin:audit', 'Read the audit log', 1, 0),
    ('admin:analytics', 'Read usage analytics', 1, 0),
    ('admin:config', 'Administer the platform configuration', 1, 0),
    ('keys:verify', 'Verify API keys', 1, 0),
    ('workflows:read', 'Read workflows', 0, 0),
    ('workflows:write', 'Change workflows', 0, 0),
    ('transactions:read', 'Read transactions', 0, 0),
    ('transactions:write', 'Change transactions', 0, 0);

-- `status` is what an administrator set; `expired` is derived from `expires_at`. A key without an
-- organization is a platform key. Revoked keys stay, so that their ids and secrets are never reused.
-- `limits` is a JSON list; NULL means that those of the organization's plan apply. `previous_start` is the
-- `start` of the previous secret; NULL means unknown.
CREATE TABLE api_keys (
    seq             INTEGER PRIMARY KEY,
    id              TEXT NOT NULL UNIQUE,
    organization_id TEXT REFERENCES organizations (id),
    user_id         TEXT REFERENCES users (id),
    name            TEXT NOT NULL,
    start           TEXT NOT NULL,
    scopes          TEXT NOT NULL,
    status          TEXT NOT NULL CHECK (status IN ('active', 'disabled', 'revoked')),
    expires_at      INTEGER,
    allowed_ips     TEXT,
    metadata        TEXT NOT NULL,
    created_by      TEXT,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    last_used_at    INTEGER,
    rotated_at      INTEGER,
    previous_secret_expires_at INTEGER,
    previous_start  TEXT,
    revoked_at      INTEGER,
    revoked_reason  TEXT,
    revision        INTEGER NOT NULL,
    limits          TEXT,
    self_rotation   INTEGER NOT NULL CHECK (self_rotation IN (0, 1))
) STRICT;

CREATE INDEX api_keys_organization ON api_keys (organization_id, seq);
CREATE INDEX api_keys_status ON api_keys (status, seq);
CREATE INDEX api_keys_user ON api_keys (user_id, seq) WHERE user_id IS NOT NULL;

-- SHA-256 of every secret ever stored: current, previous (within its grace period) and retired, so that
-- no secret is accepted twice. Verifications look keys up by the primary key.
CREATE TABLE api_key_hashes (
    hash    BLOB PRIMARY KEY,
    key_seq INTEGER NOT NULL REFERENCES api_keys (seq),
    state   TEXT NOT NULL CHECK (state IN ('current', 'previous', 'retired'))
) STRICT, WITHOUT ROWID;

CREATE INDEX api_key_hashes_key ON api_key_hashes (key_seq);

-- An index over `api_keys.scopes`. It finds the keys that hold a scope: for the list filter, and
-- because a scope in use can't be removed.
CREATE TABLE api_key_scopes (
    scope   TEXT NOT NULL,
    key_seq INTEGER NOT NULL REFERENCES api_keys (seq),
    PRIMARY KEY (scope, key_seq)
) STRICT, WITHOUT ROWID;

-- An index over the limits of `api_keys` and `organizations`. A meter that is in use can't be removed from the
-- settings. A `subject` above 0 is the `seq` of a key; -1 - `seq` is an organization.
CREATE TABLE limit_meters (
    meter   TEXT NOT NULL,
    subject INTEGER NOT NULL,
    PRIMARY KEY (meter, subject)
) STRICT, WITHOUT ROWID;

CREATE INDEX limit_meters_subject ON limit_meters (subject);

-- The words by which organizations (`kind` 2), users (1) and API keys (0) are found, each with the rows that have it: a
-- `block` has those with a `seq` from 256 * `block` to 256 * `block` + 255, and `offsets` one byte for each, `seq` % 256, in
-- no order. So a word of every key takes a byte per key, and keys that are stored together are added to it at once.
-- A `tenant` of 0 has all rows, for platform keys. The other tenants are organizations, by their `seq`, with the rows that
-- their keys see: their API keys, and their members. So a search reads nothing of other organizations, and its duration
-- reveals nothing about them. Members also have the empty word, which finds all of them in the order of the list. Rows
-- that are deleted have no words. The functions in src/store that write the rows keep their words, and `tollhouse check`
-- compares both.
-- The words of `kind` 3 and 4 are buckets of days that contain the `expires_at` and the `last_used_at` of a key, three of
-- each, so that filters by time find keys in the order of the list, however many there are. They change once a day at
-- most; an index on `last_used_at` itself would change with almost every use of a key.
CREATE TABLE words (
    tenant  INTEGER NOT NULL,
    kind    INTEGER NOT NULL,
    word    TEXT NOT NULL,
    block   INTEGER NOT NULL,
    offsets BLOB NOT NULL,
    PRIMARY KEY (tenant, kind, word, block)
) STRICT, WITHOUT ROWID;

-- Quota units leased to memory in the period that began at `started_at`, used or not. Units are leased
-- here before they are spent, and unused ones are returned when the key is idle or the server stops. So
-- a crash forfeits at most one lease, and no unit is spent twice. Each period has its own row, so that a
-- quota that changes its period and changes back keeps its count, and so does one whose clock was wrong
-- for a while. A `subject` above 0 is the `seq` of a key; -1 - `seq` is an organization. The period `total`
-- begins at 0 and never ends. Rows of other periods that ended a day ago are deleted by retention; the primary
-- key begins with the time so that it finds them.
CREATE TABLE quotas (
    period     TEXT NOT NULL CHECK (period IN ('hour', 'day', 'week', 'month', 'total')),
    started_at INTEGER NOT NULL,
    subject    INTEGER NOT NULL,
    meter      TEXT NOT NULL,
    leased     INTEGER NOT NULL CHECK (leased >= 0),
    PRIMARY KEY (period, started_at, subject, meter)
) STRICT, WITHOUT ROWID;

-- What rate limits had spent when the server stopped, so that the next start continues from there. The table is
-- empty while a server runs: the start reads the rows and deletes them, so that after a crash all windows begin
-- full. `subject` is as in `quotas`; `organization` is the number of a key's organization, with 0 as its `seq` for
-- platform keys. `spent` and `owed` are in units of which a token has as many as the window has nanoseconds, and
-- are text because they may exceed 64 bits. They are refilled at `tokens` per window from `stored_at` on.
CREATE TABLE windows (
    subject        INTEGER NOT NULL,
    meter          TEXT NOT NULL,
    window_seconds INTEGER NOT NULL,
    organization   INTEGER NOT NULL,
    tokens         INTEGER NOT NULL,
    spent          TEXT NOT NULL,
    owed           TEXT NOT NULL,
    stored_at      INTEGER NOT NULL,
    PRIMARY KEY (subject, meter, window_seconds)
) STRICT, WITHOUT ROWID;

-- Responses stored for a day, so that a POST repeated with its Idempotency-Key is replayed instead of
-- executed again. `name` is a hash of the API key's id and the Idempotency-Key; `request` is a hash of
-- method, path and body. `bytes` is what the response counts towards the limits. `answer` is the JSON of
-- `data` or `error`; in the results of a batch, a number stands for a read, which a replay runs again. If
-- it contains a secret, it is sealed with a key that can be derived only from the same bearer token and
-- the same Idempotency-Key. The table has a rowid, because rows of a table without one are moved to pages
-- of their own from 1 KB on instead of 4 KB.
CREATE TABLE idempotency (
    seq              INTEGER PRIMARY KEY,
    name             BLOB NOT NULL UNIQUE,
    key_seq          INTEGER NOT NULL REFERENCES api_keys (seq),
    organization_seq INTEGER REFERENCES organizations (seq),
    request          BLOB NOT NULL,
    created_at       INTEGER NOT NULL,
    bytes            INTEGER NOT NULL,
    status           INTEGER NOT NULL,
    etag             TEXT,
    sealed           INTEGER NOT NULL,
    answer           BLOB NOT NULL
) STRICT;

CREATE INDEX idempotency_age ON idempotency (created_at);

-- Sums of `idempotency.bytes`, so that no request has to add them up. A `subject` above 0 is the `seq` of
-- a key; 0 is the total; -1 is the platform's own keys; -1 - `seq` is an organization's keys. Triggers
-- maintain the sums for every writer.
CREATE TABLE idempotency_bytes (
    subject INTEGER PRIMARY KEY,
    bytes   INTEGER NOT NULL
) STRICT;

CREATE TRIGGER idempotency_come AFTER INSERT ON idempotency BEGIN
    INSERT INTO idempotency_bytes (subject, bytes)
        VALUES (0, NEW.bytes), (NEW.key_seq, NEW.bytes), (-1 - coalesce(NEW.organization_seq, 0), NEW.bytes)
        ON CONFLICT (subject) DO UPDATE SET bytes = idempotency_bytes.bytes + excluded.bytes;
END;
CREATE TRIGGER idempotency_go AFTER DELETE ON idempotency BEGIN
    UPDATE idempotency_bytes SET bytes = bytes - OLD.bytes
        WHERE subject IN (0, OLD.key_seq, -1 - coalesce(OLD.organization_seq, 0));
    DELETE FROM idempotency_bytes
        WHERE subject IN (OLD.key_seq, -1 - coalesce(OLD.organization_seq, 0)) AND bytes = 0;
END;

-- The audit chain. `event` is the exact JSON that `hash` covers, byte for byte. The other columns are
-- copies for the filters and are not covered by the hash. `id` is the 16 bytes of the event's ULID.
CREATE TABLE audit_events (
    seq             INTEGER PRIMARY KEY,
    id              BLOB NOT NULL UNIQUE,
    occurred_at     INTEGER NOT NULL,
    organization_id TEXT,
    actor_id        TEXT,
    action          TEXT NOT NULL,
    target_id       TEXT,
    access          TEXT NOT NULL,
    outcome         TEXT NOT NULL,
    prev_hash       BLOB NOT NULL,
    hash            BLOB NOT NULL,
    event           TEXT NOT NULL
) STRICT;

CREATE INDEX audit_events_time ON audit_events (occurred_at);
CREATE INDEX audit_events_organization ON audit_events (organization_id, seq) WHERE organization_id IS NOT NULL;
CREATE INDEX audit_events_actor ON audit_events (actor_id, seq) WHERE actor_id IS NOT NULL;
CREATE INDEX audit_events_action ON audit_events (action, seq);
CREATE INDEX audit_events_outcome ON audit_events (outcome, seq) WHERE outcome <> 'success';
CREATE INDEX audit_events_target ON audit_events (target_id, seq) WHERE target_id IS NOT NULL;

-- Usage: one row per hour (here) or day (`usage_daily`) and subject. A `subject` above 0 is the `seq`
-- of a key; 0 is the total; -1 is the platform's own keys; -1 - `seq` is an organization's keys.
-- `start` is the beginning of the hour or day. The primary keys begin with the time, so that rows
-- written together are adjacent; a key's series takes one lookup per bucket, however many keys exist.
CREATE TABLE usage_hourly (
    start   INTEGER NOT NULL,
    subject INTEGER NOT NULL,
    cost    INTEGER NOT NULL,
    -- Verifications by outcome, in the order of the checks.
    revoked                INTEGER NOT NULL,
    disabled               INTEGER NOT NULL,
    expired                INTEGER NOT NULL,
    organization_suspended INTEGER NOT NULL,
    owner_inactive         INTEGER NOT NULL,
    ip_not_allowed         INTEGER NOT NULL,
    insufficient_scope     INTEGER NOT NULL,
    quota_exceeded         INTEGER NOT NULL,
    rate_limited           INTEGER NOT NULL,
    valid                  INTEGER NOT NULL,
    PRIMARY KEY (start, subject)
) STRICT, WITHOUT ROWID;

-- A covering index over the hourly rows of the total and of organizations. Reports read thousands of
-- them, and in the table each lies among the rows of up to a million keys.
CREATE INDEX usage_hourly_sums ON usage_hourly (
    subject, start, cost, revoked, disabled, expired, organization_suspended, owner_inactive, ip_not_allowed,
    insufficient_scope, quota_exceeded, rate_limited, valid
) WHERE subject <= 0;

-- Daily sums, written together with the hourly rows and kept longer. `parent` is the subject that
-- contains this one. `magnitude` encodes the number of verifications to within an eighth: an index over
-- the exact number would change at every flush, which took four times as long.
CREATE TABLE usage_daily (
    start   INTEGER NOT NULL,
    subject INTEGER NOT NULL,
    cost    INTEGER NOT NULL,
    revoked                INTEGER NOT NULL,
    disabled               INTEGER NOT NULL,
    expired                INTEGER NOT NULL,
    organization_suspended INTEGER NOT NULL,
    owner_inactive         INTEGER NOT NULL,
    ip_not_allowed         INTEGER NOT NULL,
    insufficient_scope     INTEGER NOT NULL,
    quota_exceeded         INTEGER NOT NULL,
    rate_limited           INTEGER NOT NULL,
    valid                  INTEGER NOT NULL,
    parent    INTEGER,
    magnitude INTEGER NOT NULL,
    PRIMARY KEY (start, subject)
) STRICT, WITHOUT ROWID;

-- Find the busiest subjects of a day: within a parent, and among all keys.
CREATE INDEX usage_daily_parent ON usage_daily (parent, start, magnitude);
CREATE INDEX usage_daily_keys ON usage_daily (start, magnitude) WHERE subject > 0;

-- Units of the meters other than `requests` (whose units are `cost` above), with the same subjects. `parent` and
-- `magnitude` are as in `usage_daily`, the magnitude of the units.
CREATE TABLE usage_units_hourly (
    start   INTEGER NOT NULL,
    subject INTEGER NOT NULL,
    meter   TEXT NOT NULL,
    units   INTEGER NOT NULL,
    PRIMARY KEY (start, subject, meter)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage_units_daily (
    start     INTEGER NOT NULL,
    subject   INTEGER NOT NULL,
    meter     TEXT NOT NULL,
    units     INTEGER NOT NULL,
    parent    INTEGER,
    magnitude INTEGER NOT NULL,
    PRIMARY KEY (start, subject, meter)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_units_daily_parent ON usage_units_daily (parent, meter, start, magnitude);
CREATE INDEX usage_units_daily_keys ON usage_units_daily (meter, start, magnitude) WHERE subject > 0;

-- Reports of what requests turned out to cost, for a day, so that a repeated report isn't counted twice. `costs` is
-- JSON. The sums are in the tables of usage.
CREATE TABLE usage_reports (
    key_seq     INTEGER NOT NULL REFERENCES api_keys (seq),
    id          TEXT NOT NULL,
    costs       TEXT NOT NULL,
    reported_at INTEGER NOT NULL,
    PRIMARY KEY (key_seq, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_reports_age ON usage_reports (reported_at);

-- Denials, aggregated by minute, code and `aggregation_key`. That is the `seq` of a known key; for
-- unknown keys it is the verifying organization and the client address; it is empty for the overflow
-- row, whose code is empty too. AUTOINCREMENT as in memberships.
CREATE TABLE verification_log (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    minute          INTEGER NOT NULL,
    code            TEXT NOT NULL,
    aggregation_key TEXT NOT NULL,
    key_seq         INTEGER,
    organization_id TEXT,
    ip              TEXT,
    count           INTEGER NOT NULL,
    first_at        INTEGER NOT NULL,
    last_at         INTEGER NOT NULL,
    UNIQUE (minute, code, aggregation_key)
) STRICT;

CREATE INDEX verification_log_organization ON verification_log (organization_id, seq) WHERE organization_id IS NOT NULL;
CREATE INDEX verification_log_key ON verification_log (key_seq, seq) WHERE key_seq IS NOT NULL;
CREATE INDEX verification_log_ip ON verification_log (ip, seq) WHERE ip IS NOT NULL;

-- Row counts, so that no request has to count rows. `what` is the kind of row; `organization_id` is `*`
-- for the whole platform and empty for the platform's own keys. Triggers maintain the counts for every
-- writer.
CREATE TABLE counts (
    what            TEXT NOT NULL,
    organization_id TEXT NOT NULL,
    n               INTEGER NOT NULL,
    PRIMARY KEY (what, organization_id)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER organizations_come AFTER INSERT ON organizations WHEN NEW.deleted_at IS NULL BEGIN
    INSERT INTO counts (what, organization_id, n) VALUES ('organizations', '*', 1)
        ON CONFLICT (what, organization_id) DO UPDATE SET n = counts.n + 1;
END;
CREATE TRIGGER organizations_go AFTER UPDATE OF deleted_at ON organizations
WHEN OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL BEGIN
    UPDATE counts SET n = n - 1 WHERE what = 'organizations' AND organization_id = '*';
END;
CREATE TRIGGER users_come AFTER INSERT ON users WHEN NEW.deleted_at IS NULL BEGIN
    INSERT INTO counts (what, organization_id, n) VALUES ('users', '*', 1)
        ON CONFLICT (what, organization_id) DO UPDATE SET n = counts.n + 1;
END;
CREATE TRIGGER users_go AFTER UPDATE OF deleted_at ON users
WHEN OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL BEGIN
    UPDATE counts SET n = n - 1 WHERE what = 'users' AND organization_id = '*';
END;
CREATE TRIGGER memberships_come AFTER INSERT ON memberships BEGIN
    INSERT INTO counts (what, organization_id, n) VALUES ('users', NEW.organization_id, 1)
        ON CONFLICT (what, organization_id) DO UPDATE SET n = counts.n + 1;
END;
CREATE TRIGGER memberships_go AFTER DELETE ON memberships BEGIN
    UPDATE counts SET n = n - 1 WHERE what = 'users' AND organization_id = OLD.organization_id;
END;
CREATE TRIGGER api_keys_come AFTER INSERT ON api_keys BEGIN
    INSERT INTO counts (what, organization_id, n)
        VALUES (NEW.status, '*', 1), (NEW.status, coalesce(NEW.organization_id, ''), 1)
        ON CONFLICT (what, organization_id) DO UPDATE SET n = counts.n + 1;
END;
CREATE TRIGGER api_keys_turn AFTER UPDATE OF status ON api_keys WHEN OLD.status <> NEW.status BEGIN
    UPDATE counts SET n = n - 1
        WHERE what = OLD.status AND organization_id IN ('*', coalesce(OLD.organization_id, ''));
    INSERT INTO counts (what, organization_id, n)
        VALUES (NEW.status, '*', 1), (NEW.status, coalesce(NEW.organization_id, ''), 1)
        ON CONFLICT (what, organization_id) DO UPDATE SET n = counts.n + 1;
END;

CREATE TRIGGER usage_reports_come AFTER INSERT ON usage_reports BEGIN
    INSERT INTO counts (what, organization_id, n)
        SELECT 'usage_reports', '*', 1
        UNION ALL SELECT 'usage_reports', coalesce(organization_id, ''), 1 FROM api_keys WHERE seq = NEW.key_seq
        ON CONFLICT (what, organization_id) DO UPDATE SET n = counts.n + 1;
END;
CREATE TRIGGER usage_reports_go AFTER DELETE ON usage_reports BEGIN
    UPDATE counts SET n = n - 1 WHERE what = 'usage_reports' AND organization_id IN
        ('*', (SELECT coalesce(organization_id, '') FROM api_keys WHERE seq = OLD.key_seq));
END;

-- Finds expired keys, which `counts` includes among the active ones.
CREATE INDEX api_keys_expiry ON api_keys (expires_at) WHERE status = 'active' AND expires_at IS NOT NULL;
CREATE INDEX api_keys_organization_expiry ON api_keys (organization_id, expires_at)
    WHERE status = 'active' AND expires_at IS NOT NULL;
