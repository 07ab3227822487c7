-- The schema as it is today; src/store/schema.rs says how an older file gets here.
--
-- Times are milliseconds since the Unix epoch. `seq` is the place in lists: the order in which the
-- writer stored the rows, which is why ids (made earlier, or by the caller) order nothing. `revision`
-- counts stored changes and makes the ETag. `*_key` columns are the lower-cased twins of what people
-- typed, for uniqueness and prefix search without regard to case. JSON is text, written by us alone.

-- What this file knows about itself: one row a name (`cursor_key`: seals list cursors, and tells
-- files of one origin from others; `last_backup_at`: when the last proven backup was made).
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The platform's settings, in one row. Their first values come from the configuration. `checked_prefixes` are
-- those under which no secret with a wrong checksum was ever taken, so that such a one need not be looked up.
CREATE TABLE settings (
    one              INTEGER PRIMARY KEY CHECK (one = 1),
    settings         TEXT NOT NULL,
    checked_prefixes TEXT NOT NULL,
    revision         INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL
) STRICT;

-- Tombstones stay (`deleted_at`), so that an id is never taken twice and old events keep their meaning.
CREATE TABLE organizations (
    seq        INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    name_key   TEXT NOT NULL,
    email      TEXT NOT NULL,
    email_key  TEXT NOT NULL,
    plan       TEXT NOT NULL,
    status     TEXT NOT NULL CHECK (status IN ('active', 'suspended')),
    metadata   TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER,
    revision   INTEGER NOT NULL
) STRICT;

-- Is anybody on this plan?
CREATE INDEX organizations_plan ON organizations (plan, seq) WHERE deleted_at IS NULL;

CREATE TABLE users (
    seq         INTEGER PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    email       TEXT NOT NULL,
    email_key   TEXT NOT NULL,
    name        TEXT NOT NULL,
    name_key    TEXT NOT NULL,
    external_id TEXT,
    status      TEXT NOT NULL CHECK (status IN ('active', 'suspended')),
    metadata    TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    deleted_at  INTEGER,
    revision    INTEGER NOT NULL
) STRICT;

-- One living user an address; a tombstone frees it.
CREATE UNIQUE INDEX users_email ON users (email_key) WHERE deleted_at IS NULL;
CREATE INDEX users_external_id ON users (external_id) WHERE external_id IS NOT NULL;

-- Who is what where. AUTOINCREMENT: a membership's row goes when it ends, and its place must not be
-- given to another while somebody pages through the list.
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

-- The catalogue. AUTOINCREMENT for the same reason as above.
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

-- `status` is what was decided; `expired` is seen from `expires_at`. No organization: a platform key.
-- Revoked keys stay, so that nothing of theirs is ever taken again. No `rate_limit`: that of the plan; its
-- window is in seconds.
CREATE TABLE api_keys (
    seq             INTEGER PRIMARY KEY,
    id              TEXT NOT NULL UNIQUE,
    organization_id TEXT REFERENCES organizations (id),
    user_id         TEXT REFERENCES users (id),
    name            TEXT NOT NULL,
    name_key        TEXT NOT NULL,
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
    revoked_at      INTEGER,
    revoked_reason  TEXT,
    revision        INTEGER NOT NULL,
    rate_limit      INTEGER,
    rate_window     INTEGER,
    quota_limit     INTEGER,
    quota_period    TEXT CHECK (quota_period IN ('hour', 'day', 'month')),
    CHECK ((rate_limit IS NULL) = (rate_window IS NULL)),
    CHECK ((quota_limit IS NULL) = (quota_period IS NULL))
) STRICT;

CREATE INDEX api_keys_organization ON api_keys (organization_id, seq);
CREATE INDEX api_keys_status ON api_keys (status, seq);
CREATE INDEX api_keys_user ON api_keys (user_id, seq) WHERE user_id IS NOT NULL;

-- SHA-256 of every secret that ever was: current, previous (within its grace) and retired, so that no
-- secret is taken twice. The primary key is the way in for every verification.
CREATE TABLE api_key_hashes (
    hash    BLOB PRIMARY KEY,
    key_seq INTEGER NOT NULL REFERENCES api_keys (seq),
    state   TEXT NOT NULL CHECK (state IN ('current', 'previous', 'retired'))
) STRICT, WITHOUT ROWID;

CREATE INDEX api_key_hashes_key ON api_key_hashes (key_seq);

-- An index over `api_keys.scopes`: who holds a scope, and may it go?
CREATE TABLE api_key_scopes (
    scope   TEXT NOT NULL,
    key_seq INTEGER NOT NULL REFERENCES api_keys (seq),
    PRIMARY KEY (scope, key_seq)
) STRICT, WITHOUT ROWID;

-- Units of quotas that were handed out to memory, which spends them: all of the period that began at
-- `started_at`, used or not. They are leased here before they are used, and what is left of them is taken
-- off again when the key rests or the server stops; so a crash forfeits one lease, and nothing is used
-- twice. A row for each kind of period: a quota that goes from one to another and back is still counted.
CREATE TABLE quotas (
    key_seq    INTEGER NOT NULL REFERENCES api_keys (seq),
    period     TEXT NOT NULL CHECK (period IN ('hour', 'day', 'month')),
    started_at INTEGER NOT NULL,
    leased     INTEGER NOT NULL CHECK (leased >= 0),
    PRIMARY KEY (key_seq, period)
) STRICT, WITHOUT ROWID;

-- Answers that are kept for a day, so that a POST that is repeated with its Idempotency-Key is answered
-- again instead of done again. `name` is a hash of the API key's id and the Idempotency-Key, `request` one of
-- method, path and body. `answer` is the JSON of `data` or `error`; where it shows a secret it is sealed with
-- a key that only who sends the same bearer token and the same Idempotency-Key can derive.
CREATE TABLE idempotency (
    name       BLOB PRIMARY KEY,
    request    BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    status     INTEGER NOT NULL,
    etag       TEXT,
    sealed     INTEGER NOT NULL,
    answer     BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_age ON idempotency (created_at);

-- The chain. `event` is the JSON that `hash` was taken over, byte for byte; the columns beside it are
-- copies for the filters and prove nothing. `id` is the 16 bytes of the event's ULID.
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

-- Usage: one row for each hour, and for each day, and subject. A `subject` above 0 is the `seq` of a key; 0
-- is everything; -1 are the platform's own keys, and -1 - `seq` those of an organization. `start` is where
-- the hour or the day begins. The time goes first in the keys: what is written at one time lies together,
-- and a series of a key is a lookup for each of its buckets, however many keys there are.
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

-- The hours of everything and of organizations once more, side by side: reports ask for thousands of them, each
-- of which lies among those of a million keys above.
CREATE INDEX usage_hourly_sums ON usage_hourly (
    subject, start, cost, revoked, disabled, expired, organization_suspended, owner_inactive, ip_not_allowed,
    insufficient_scope, quota_exceeded, rate_limited, valid
) WHERE subject <= 0;

-- The sums of the hours, written with them, because they are kept longer. `parent` is the subject that a
-- subject is part of. `magnitude` is how many verifications there are to within an eighth: an index over
-- the exact number would be written at each flush, which took four times as long.
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

-- The busiest of a day: parts of a subject, and keys of all organizations.
CREATE INDEX usage_daily_parent ON usage_daily (parent, start, magnitude);
CREATE INDEX usage_daily_keys ON usage_daily (start, magnitude) WHERE subject > 0;

-- Denials, aggregated by minute, code and `aggregation_key`: the `seq` of a key, or organization and address that asked
-- for an unknown one, or nothing for what found no room (its code is empty). AUTOINCREMENT as above.
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

-- How many there are, so that nobody counts rows: of each `what` in an organization, `*` for all of them
-- together, and nothing for the platform's own keys. The triggers keep it, whoever writes.
CREATE TABLE counts (
    what            TEXT NOT NULL,
    organization_id TEXT NOT NULL,
    n               INTEGER NOT NULL,
    PRIMARY KEY (what, organization_id)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER organizations_come AFTER INSERT ON organizations WHEN NEW.deleted_at IS NULL BEGIN
    INSERT INTO counts (what, organization_id, n) VALUES ('organizations', '*', 1)
        ON CONFLICT (what, organization_id) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER organizations_go AFTER UPDATE OF deleted_at ON organizations
WHEN OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL BEGIN
    UPDATE counts SET n = n - 1 WHERE what = 'organizations' AND organization_id = '*';
END;
CREATE TRIGGER users_come AFTER INSERT ON users WHEN NEW.deleted_at IS NULL BEGIN
    INSERT INTO counts (what, organization_id, n) VALUES ('users', '*', 1)
        ON CONFLICT (what, organization_id) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER users_go AFTER UPDATE OF deleted_at ON users
WHEN OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL BEGIN
    UPDATE counts SET n = n - 1 WHERE what = 'users' AND organization_id = '*';
END;
CREATE TRIGGER memberships_come AFTER INSERT ON memberships BEGIN
    INSERT INTO counts (what, organization_id, n) VALUES ('users', NEW.organization_id, 1)
        ON CONFLICT (what, organization_id) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER memberships_go AFTER DELETE ON memberships BEGIN
    UPDATE counts SET n = n - 1 WHERE what = 'users' AND organization_id = OLD.organization_id;
END;
CREATE TRIGGER api_keys_come AFTER INSERT ON api_keys BEGIN
    INSERT INTO counts (what, organization_id, n)
        VALUES (NEW.status, '*', 1), (NEW.status, coalesce(NEW.organization_id, ''), 1)
        ON CONFLICT (what, organization_id) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER api_keys_turn AFTER UPDATE OF status ON api_keys WHEN OLD.status <> NEW.status BEGIN
    UPDATE counts SET n = n - 1
        WHERE what = OLD.status AND organization_id IN ('*', coalesce(OLD.organization_id, ''));
    INSERT INTO counts (what, organization_id, n)
        VALUES (NEW.status, '*', 1), (NEW.status, coalesce(NEW.organization_id, ''), 1)
        ON CONFLICT (what, organization_id) DO UPDATE SET n = n + 1;
END;

-- Keys whose time is over are found by it; they are counted as active above.
CREATE INDEX api_keys_expiry ON api_keys (expires_at) WHERE status = 'active' AND expires_at IS NOT NULL;
CREATE INDEX api_keys_organization_expiry ON api_keys (organization_id, expires_at)
    WHERE status = 'active' AND expires_at IS NOT NULL;
