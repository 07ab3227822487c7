"""Databases of any size: the server creates one resource of each kind, and SQL copies it."""

import hashlib
import json
import sqlite3
import time
import zlib

from harness import KEY, Client, Server

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

HOUR = 3_600_000
DAY = 24 * HOUR
# Limits that are counted, but never reached.
RATE_LIMIT = {"meter": "requests", "limit": 1_000_000_000, "window_seconds": 60}
QUOTA = {"meter": "requests", "limit": 2**53 - 1, "period": "month"}
# Limits are set explicitly, because those of a plan would be reached.
ORGANIZATION = {"id": "org_bench", "name": "Bench", "email": "bench@example.com", "limits": []}
API_KEY = {"organization_id": "org_bench", "id": "key_model", "name": "Production API Key",
           "scopes": ["workflows:read", "transactions:write"], "limits": [RATE_LIMIT]}


def secrets(begin, count):
    """Generates secrets in Tollhouse's form, with checksums. The same arguments give the same secrets."""
    for n in range(begin, begin + count):
        secret = f"toll_{n:032}"
        rest, checksum = zlib.crc32(secret.encode()), ""
        for _ in range(6):
            rest, digit = divmod(rest, 62)
            checksum = BASE62[digit] + checksum
        yield secret + checksum


def store(file, model, secrets, status="active"):
    """Stores a copy of the model key for each secret, while the server is stopped. A million take seconds."""
    db = sqlite3.connect(file)
    first, = db.execute("SELECT max(seq) + 1 FROM api_keys").fetchone()
    db.execute("CREATE TEMP TABLE new (seq INTEGER PRIMARY KEY, secret TEXT, hash BLOB)")
    db.executemany("INSERT INTO new VALUES (?, ?, ?)", (
        (seq, secret, hashlib.sha256(secret.encode()).digest()) for seq, secret in enumerate(secrets, first)))
    replaced = {"seq": "new.seq", "id": "'key_bench-' || new.seq", "start": "substr(new.secret, 1, 9)",
                "status": ":status"}
    columns = [name for _, name, *_ in db.execute("PRAGMA table_info(api_keys)")]
    values = ", ".join(replaced.get(name, f"model.{name}") for name in columns)
    names = {"model": model, "status": status}
    db.execute(f"INSERT INTO api_keys ({', '.join(columns)}) SELECT {values} "
               "FROM new, (SELECT * FROM api_keys WHERE id = :model) model", names)
    db.execute("INSERT INTO api_key_hashes (hash, key_seq, state) "
               "SELECT hash, seq, 'current' FROM new ORDER BY hash")
    db.execute("INSERT INTO api_key_scopes (scope, key_seq) SELECT held.scope, new.seq FROM new, api_key_scopes held "
               "WHERE held.key_seq = (SELECT seq FROM api_keys WHERE id = :model) ORDER BY 1, 2", names)
    db.execute("INSERT INTO limit_meters (meter, subject) SELECT held.meter, new.seq FROM new, limit_meters held "
               "WHERE held.subject = (SELECT seq FROM api_keys WHERE id = :model) ORDER BY 1, 2", names)
    # The versions that scripts/bench compares may be older than the table.
    if db.execute("SELECT 1 FROM pragma_table_info('words') WHERE name = 'offsets'").fetchone():
        store_words(db, model)
    db.commit()
    db.close()


def store_words(db, model):
    """Stores the words of the copies in the table `new`, which have the name of the model key."""
    name, = db.execute("SELECT name FROM api_keys WHERE id = ?", (model,)).fetchone()
    tenants = "SELECT 0 AS tenant UNION SELECT o.seq FROM organizations o JOIN api_keys k ON k.organization_id = o.id " \
              "WHERE k.id = :model"
    words = [(0, f"'{word}'") for word in sorted({*name.lower().split(), "bench", "toll"})]
    words += [(0, "CAST(new.seq AS TEXT)"), (0, "lower(substr(new.secret, 6, 4))"), (4, "'never'")]
    every_word = " UNION ALL ".join(
        f"SELECT {kind} AS kind, {word} AS word, new.seq AS seq FROM new" for kind, word in words)
    insert_words(db, f"SELECT tenant, kind, word, seq FROM ({every_word}), ({tenants})", {"model": model})


def insert_words(db, rows, values=()):
    """Stores the words that a query returns: the tenant, the kind, the word, and the `seq` of the row that has it."""
    db.create_function("unhex", 1, bytes.fromhex)
    db.execute("INSERT INTO words (tenant, kind, word, block, offsets) SELECT tenant, kind, word, seq / 256, "
               "unhex(group_concat(printf('%02x', seq % 256), '')) "
               f"FROM (SELECT DISTINCT tenant, kind, word, seq FROM ({rows}) ORDER BY 1, 2, 3, 4) GROUP BY 1, 2, 3, 4 "
               "ON CONFLICT (tenant, kind, word, block) "
               "DO UPDATE SET offsets = CAST(words.offsets || excluded.offsets AS BLOB)", values)


def fill(dir, keys, events):
    """Fills a database with keys, usage, denials and audit events.

    Each key has usage in two of the last 90 days and a denial in one of the last 29. The model key, its organization
    and the total have usage in every hour. The audit events cover a year; one in a hundred belongs to the organization.
    The chain of the copied events is not valid. The oldest tenth of the keys expires within 400 days and was last used long
    ago; the newest half expires years later and was used lately; five of these expire last. One key has the word "needle" in its
    name, and ten belong to an organization of their own. There are a tenth as many users and organizations; one of each has
    the word "needle", and ten of the users are members of the organization with ten keys."""
    with Server(dir) as server:
        server.call("POST", "/admin/v1/organizations", ORGANIZATION)
        model = server.call("POST", "/admin/v1/api-keys", API_KEY)
        server.call("POST", "/admin/v1/api-keys", API_KEY | {"id": "key_rare", "name": "Needle Key"})
        small = {"id": "org_small", "name": "Small", "email": "small@example.com", "limits": []}
        server.call("POST", "/admin/v1/organizations", small)
        for number in range(10):
            of_small = {"id": f"key_small-{number}", "organization_id": "org_small"}
            server.call("POST", "/admin/v1/api-keys", API_KEY | of_small)
            member = {"id": f"user_small-{number}", "name": "Ada Lovelace", "email": f"ada@small{number}.example"}
            server.call("POST", "/admin/v1/users", member)
            server.call("POST", "/admin/v1/organizations/org_small/members", {"user_id": member["id"], "role": "member"})
        for name in ("Acme", "Needle"):
            email = f"office@{name.lower()}.example"
            organization = {"id": f"org_{name.lower()}", "name": f"{name} Corporation", "email": email}
            server.call("POST", "/admin/v1/organizations", organization)
            user = {"id": f"user_{name.lower()}", "name": f"{name} Lovelace", "email": email}
            server.call("POST", "/admin/v1/users", user)
        client = Client(server.url, KEY)
        client.get(f"/admin/v1/api-keys/{model['id']}")
        client.verify(model["key"])
        client.verify(model["key"], scopes=["workflows:write"])
    store(server.file, model["id"], secrets(0, keys))
    with sqlite3.connect(server.file) as db:
        # Neither concurrency nor crashes matter here: an incomplete database is discarded.
        db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000")
        now = int(time.time() * 1000)
        add_usage(db, now)
        add_denials(db, now)
        add_events(db, now, events)
        add_times(db, now)
        add_people(db, keys // 10)
    db.close()
    return server.file


def copy(db, table, model, rows, **columns):
    """Copies the rows of a table that match the condition `model` for each row of the query `rows`, which is named
    `new`. `columns` replaces columns by expressions."""
    names = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(columns.get(name, f"model.{name}") for name in names)
    db.execute(f"INSERT OR IGNORE INTO {table} ({', '.join(names)}) SELECT {values} "
               f"FROM (SELECT * FROM {table} WHERE {model}) model CROSS JOIN ({rows}) new")


def add_usage(db, now):
    first = (now // DAY - 89) * DAY
    hours = (now - first) // HOUR
    for table, length in (("usage_hourly", HOUR), ("usage_daily", DAY)):
        # Copies all existing rows, also those of the organization (subject below 0) and of the total (subject 0).
        copy(db, table, "1 = 1", "WITH RECURSIVE every (start) AS (VALUES ({0}) UNION ALL "
             "SELECT start + {1} FROM every WHERE start + {1} < {2}) SELECT start FROM every".format(first, length, now),
             start="new.start")
        # Two primes distribute the keys over the hours.
        for prime in (7_919, 104_729):
            copy(db, table, "subject > 0 LIMIT 1",
                 f"SELECT seq, ({first} + seq * {prime} % {hours} * {HOUR}) / {length} * {length} AS start FROM api_keys "
                 "ORDER BY start, seq", start="new.start", subject="new.seq", magnitude=f"1 + new.seq * {prime} % 200")


def add_times(db, now):
    """Sets when keys expire and when they were last used."""
    last, = db.execute("SELECT max(seq) FROM api_keys").fetchone()
    tenth, half = last // 10, last // 2
    # Two primes distribute the keys over the days.
    for column, kind, old, new in (("expires_at", 3, (-400, 300), (-2000, 990)), ("last_used_at", 4, (200, 300), (1, 28))):
        days_ago = lambda begin, days, prime: f"{now} - ({begin} + seq * {prime} % {days}) * {DAY}"
        db.execute(f"UPDATE api_keys SET {column} = NULL WHERE organization_id IS NOT NULL")
        db.execute(f"UPDATE api_keys SET {column} = {days_ago(*old, 7_919)} WHERE seq <= {tenth} "
                   "AND organization_id IS NOT NULL")
        db.execute(f"UPDATE api_keys SET {column} = {days_ago(*new, 104_729)} WHERE seq > {half}")
        if column == "expires_at":
            db.execute(f"UPDATE api_keys SET expires_at = {now + 3000 * DAY} WHERE seq > {half} AND seq <= {half + 5}")
        db.execute(f"DELETE FROM words WHERE kind = {kind}")
        # As in src/domain/time_buckets.rs.
        buckets = " UNION ALL ".join(
            f"SELECT '{name}' || (({column} / {DAY} - 18432) / {days}) AS word, seq, organization_id FROM api_keys "
            f"WHERE {column} IS NOT NULL" for name, days in (("a", 1), ("b", 32), ("c", 1024)))
        if column == "last_used_at":
            buckets += " UNION ALL SELECT 'never', seq, organization_id FROM api_keys WHERE last_used_at IS NULL"
        insert_words(db, f"SELECT 0 AS tenant, {kind} AS kind, word, seq FROM ({buckets}) UNION ALL "
                         f"SELECT o.seq, {kind}, b.word, b.seq FROM ({buckets}) b "
                         "JOIN organizations o ON o.id = b.organization_id")


def add_people(db, count):
    """Adds users and organizations."""
    numbers = ("WITH RECURSIVE upto (n) AS "
               f"(VALUES (1) UNION ALL SELECT n + 1 FROM upto WHERE n < {count}) SELECT n FROM upto")
    email = "'office' || new.n || '@acme.example'"
    for table, kind, id, name in (("users", 1, "user", "lovelace"), ("organizations", 2, "org", "corporation")):
        last, = db.execute(f"SELECT max(seq) FROM {table}").fetchone()
        copy(db, table, f"id = '{id}_acme'", numbers, seq=f"{last} + new.n", id=f"'{id}_bench-' || new.n", email=email,
             email_key=email)
        words = [f"'{word}'" for word in ("acme", name, "example", "bench")] + ["'office' || n", "CAST(n AS TEXT)"]
        insert_words(db, " UNION ALL ".join(
            f"SELECT 0 AS tenant, {kind} AS kind, {word} AS word, {last} + n AS seq FROM ({numbers})" for word in words))


def add_denials(db, now):
    keys, = db.execute("SELECT count(*) FROM api_keys").fetchone()
    # The existing rows get the oldest time, which matches their position in the order of insertion.
    db.execute("UPDATE verification_log SET minute = :old, first_at = :old, last_at = :old",
               {"old": (now // DAY - 29) * DAY})
    copy(db, "verification_log", "key_seq IS NOT NULL",
         f"SELECT seq AS key, ({now - 29 * DAY} + seq * {28 * DAY} / {keys}) / 60000 * 60000 AS minute FROM api_keys",
         seq="NULL", minute="new.minute", first_at="new.minute", last_at="new.minute", key_seq="new.key",
         aggregation_key="new.key")


def add_events(db, now, count):
    last, = db.execute("SELECT max(seq) FROM audit_events").fetchone()
    db.execute("UPDATE audit_events SET occurred_at = ?", (now - 365 * DAY,))
    copy(db, "audit_events", "action = 'api_key.read' LIMIT 1",
         f"WITH RECURSIVE upto (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM upto WHERE n < {count}) SELECT n FROM upto",
         seq=f"{last} + new.n", id="CAST(printf('%016d', new.n) AS BLOB)",
         occurred_at=f"{now - 365 * DAY} + new.n * {365 * DAY} / {count}",
         organization_id="CASE WHEN new.n % 100 = 0 THEN model.organization_id END")


def ulid(number):
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def store_chain(file, count, days):
    """Inserts audit events over a number of days before the existing ones, as a server would have written them, with a
    valid chain, while the server is stopped."""
    db = sqlite3.connect(file)
    db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000")
    names = [name for _, name, *_ in db.execute("PRAGMA table_info(audit_events)")]
    existing = [dict(zip(names, row)) for row in db.execute("SELECT * FROM audit_events ORDER BY seq")]
    db.execute("DELETE FROM audit_events")
    model = existing[-1]
    now = int(time.time() * 1000)

    def rows():
        model_event = json.loads(model["event"])
        prev = bytes(32)
        for seq in range(1, count + len(existing) + 1):
            if seq <= count:
                at = now - days * DAY + seq * days * DAY // count - 1000
                number = at << 80 | seq
                row = model | {"id": number.to_bytes(16), "occurred_at": at}
                model_event["id"] = "evt_" + ulid(number)
                seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at // 1000))
                model_event["occurred_at"] = f"{seconds}.{at % 1000:03}Z"
                event = model_event
            else:
                row = existing[seq - count - 1]
                event = json.loads(row["event"])
            event["seq"] = seq
            text = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
            digest = hashlib.sha256(b"tollhouse.audit.v1\n" + prev + text.encode()).digest()
            yield tuple((row | {"seq": seq, "prev_hash": prev, "hash": digest, "event": text}).values())
            prev = digest

    db.executemany(f"INSERT INTO audit_events ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", rows())
    db.commit()
    db.close()
