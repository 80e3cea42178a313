-- What is looked up in a flag or cohort stands beside it, derived by the database, so that it cannot disagree.
ALTER TABLE flags ADD COLUMN key TEXT GENERATED ALWAYS AS (document ->> '$.key') VIRTUAL;
ALTER TABLE flags ADD COLUMN deleted INTEGER GENERATED ALWAYS AS (coalesce(document ->> '$.deleted', 0)) VIRTUAL;
ALTER TABLE flags ADD COLUMN active INTEGER GENERATED ALWAYS AS (coalesce(document ->> '$.active', 0)) VIRTUAL;
CREATE UNIQUE INDEX flags_by_key ON flags (project_id, key) WHERE NOT deleted;
ALTER TABLE cohorts ADD COLUMN deleted INTEGER GENERATED ALWAYS AS (coalesce(document ->> '$.deleted', 0)) VIRTUAL;

DROP INDEX persons_of_project;
CREATE INDEX persons_of_project ON persons (project_id, id);
CREATE INDEX members_of_cohort ON cohort_members (cohort_id, person_id);

-- What gateways read: one document per project, in parts that can be written and read one by one. Parts of another build
-- than the one published are not read by anybody. The version only ever grows. Moments are in milliseconds since 1970.
CREATE TABLE published (
  project_id INTEGER PRIMARY KEY REFERENCES projects (id) ON DELETE CASCADE,
  version INTEGER NOT NULL,
  build TEXT NOT NULL,
  etag TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  flags INTEGER NOT NULL,
  cohorts INTEGER NOT NULL,
  members INTEGER NOT NULL DEFAULT 0,
  published_at INTEGER NOT NULL
) STRICT;

CREATE INDEX published_by_bytes ON published (bytes);
CREATE INDEX published_by_time ON published (published_at);

CREATE TABLE published_parts (
  project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
  build TEXT NOT NULL,
  number INTEGER NOT NULL,
  part BLOB NOT NULL,
  PRIMARY KEY (project_id, build, number)
) STRICT;

-- One row per project, whatever happens: dirty while `dirty_since` is set, resting until `rest_until`, and leased to
-- one worker until `leased_until`.
CREATE TABLE builds (
  project_id INTEGER PRIMARY KEY REFERENCES projects (id) ON DELETE CASCADE,
  dirty_since INTEGER,
  rest_until INTEGER NOT NULL DEFAULT 0,
  pace_ms INTEGER NOT NULL DEFAULT 0,
  lease TEXT,
  leased_until INTEGER NOT NULL DEFAULT 0,
  failures INTEGER NOT NULL DEFAULT 0,
  problem TEXT,
  is_refused INTEGER NOT NULL DEFAULT 0,
  verified_at INTEGER NOT NULL
) STRICT;

CREATE INDEX builds_dirty ON builds (max(dirty_since, rest_until)) WHERE dirty_since IS NOT NULL;
CREATE INDEX builds_unverified ON builds (verified_at) WHERE dirty_since IS NULL;
CREATE INDEX builds_with_problem ON builds (project_id) WHERE problem IS NOT NULL;

CREATE VIEW moment AS SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) AS ms;

INSERT INTO builds (project_id, dirty_since, verified_at) SELECT id, ms, ms FROM projects, moment;

-- A write marks its project in its own transaction, whoever writes. An edit may be the cure of what failed, so it
-- shortens the rest after failures, though not to nothing.
CREATE TRIGGER mark_new AFTER INSERT ON projects BEGIN
  INSERT INTO builds (project_id, dirty_since, verified_at) SELECT NEW.id, ms, ms FROM moment;
END;

CREATE TRIGGER mark_dirty AFTER UPDATE OF version ON projects BEGIN
  UPDATE builds SET
    dirty_since = coalesce(dirty_since, (SELECT ms FROM moment)),
    rest_until = CASE WHEN failures > 0 THEN min(rest_until, pace_ms + (SELECT ms FROM moment)) ELSE rest_until END
  WHERE project_id = NEW.id;
END;

-- Who changed what, when, from what, into what. Nothing is ever changed or taken away here.
CREATE TABLE audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  project_id INTEGER NOT NULL,
  at INTEGER NOT NULL,
  actor TEXT NOT NULL,
  request_id TEXT NOT NULL,
  request_key TEXT,
  kind TEXT NOT NULL,
  item_id INTEGER NOT NULL,
  action TEXT NOT NULL,
  version INTEGER NOT NULL,
  before TEXT,
  after TEXT
) STRICT;

CREATE INDEX audit_of_item ON audit (project_id, kind, item_id, version);
CREATE UNIQUE INDEX audit_by_request_key ON audit (project_id, kind, request_key) WHERE request_key IS NOT NULL;

CREATE TRIGGER audit_is_not_updated BEFORE UPDATE ON audit BEGIN
  SELECT raise(ABORT, 'audit records are never changed');
END;

CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit BEGIN
  SELECT raise(ABORT, 'audit records are never changed');
END;

-- Personal keys. The key itself is not kept; a digest of this much randomness needs no salt.
CREATE TABLE keys (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  digest TEXT NOT NULL UNIQUE,
  hint TEXT NOT NULL,
  name TEXT NOT NULL,
  scopes TEXT NOT NULL,
  projects TEXT,
  created_at INTEGER NOT NULL,
  created_by TEXT NOT NULL,
  revoked_at INTEGER
) STRICT;
