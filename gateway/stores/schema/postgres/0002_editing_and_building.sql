-- What is looked up in a flag or cohort stands beside it, derived by the database, so that it cannot disagree.
ALTER TABLE flagstone.flags
  ADD COLUMN key text GENERATED ALWAYS AS (document ->> 'key') STORED,
  ADD COLUMN deleted boolean GENERATED ALWAYS AS (coalesce((document ->> 'deleted')::boolean, false)) STORED,
  ADD COLUMN active boolean GENERATED ALWAYS AS (coalesce((document ->> 'active')::boolean, false)) STORED;

CREATE UNIQUE INDEX flags_by_key ON flagstone.flags (project_id, key) WHERE NOT deleted;

ALTER TABLE flagstone.cohorts
  ADD COLUMN deleted boolean GENERATED ALWAYS AS (coalesce((document ->> 'deleted')::boolean, false)) STORED;

DROP INDEX flagstone.persons_of_project;
CREATE INDEX persons_of_project ON flagstone.persons (project_id, id);
CREATE INDEX members_of_cohort ON flagstone.cohort_members (cohort_id, person_id);

-- A version is the moment of the edit in milliseconds, or one more than the one before: it grows also when a project
-- is deleted and made anew, or a backup is restored and then edited.
CREATE FUNCTION flagstone.next_version(before bigint) RETURNS bigint LANGUAGE sql AS $$
  SELECT greatest(before + 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)
$$;

-- What gateways read: one document per project, in parts that can be written and read one by one. Parts of another build
-- than the one published are not read by anybody. The version only ever grows.
CREATE TABLE flagstone.published (
  project_id bigint PRIMARY KEY REFERENCES flagstone.projects (id) ON DELETE CASCADE,
  version bigint NOT NULL,
  build text NOT NULL,
  etag text NOT NULL,
  bytes bigint NOT NULL,
  flags bigint NOT NULL,
  cohorts bigint NOT NULL,
  members bigint NOT NULL DEFAULT 0,
  published_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX published_by_bytes ON flagstone.published (bytes);

CREATE TABLE flagstone.published_parts (
  project_id bigint NOT NULL REFERENCES flagstone.projects (id) ON DELETE CASCADE,
  build text NOT NULL,
  number integer NOT NULL,
  part bytea NOT NULL,
  PRIMARY KEY (project_id, build, number)
);

-- One row per project, whatever happens: dirty while `dirty_since` is set, resting until `rest_until`, and leased to
-- one worker until `leased_until`.
CREATE TABLE flagstone.builds (
  project_id bigint PRIMARY KEY REFERENCES flagstone.projects (id) ON DELETE CASCADE,
  dirty_since timestamptz,
  rest_until timestamptz NOT NULL DEFAULT '-infinity',
  pace_ms bigint NOT NULL DEFAULT 0,
  lease text,
  leased_until timestamptz NOT NULL DEFAULT '-infinity',
  failures integer NOT NULL DEFAULT 0,
  problem text,
  is_refused boolean NOT NULL DEFAULT false,
  verified_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX builds_dirty ON flagstone.builds (greatest(dirty_since, rest_until)) WHERE dirty_since IS NOT NULL;
CREATE INDEX builds_unverified ON flagstone.builds (verified_at) WHERE dirty_since IS NULL;
CREATE INDEX builds_with_problem ON flagstone.builds (project_id) WHERE problem IS NOT NULL;

INSERT INTO flagstone.builds (project_id, dirty_since) SELECT id, now() FROM flagstone.projects;

-- A write marks its project in its own transaction, whoever writes. A mark that is there already is left alone, so a
-- burst of edits writes it once; whoever clears it holds the project's row, and with it all later writes, meanwhile.
-- An edit may be the cure of what failed, so it shortens the rest after failures, though not to nothing.
CREATE FUNCTION flagstone.mark_dirty() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO flagstone.builds (project_id, dirty_since) VALUES (NEW.id, clock_timestamp())
  ON CONFLICT (project_id) DO UPDATE SET
    dirty_since = coalesce(builds.dirty_since, excluded.dirty_since),
    rest_until = CASE
      WHEN builds.failures > 0 THEN least(builds.rest_until, clock_timestamp() + builds.pace_ms * interval '1 ms')
      ELSE builds.rest_until
    END
  WHERE builds.dirty_since IS NULL
    OR (builds.failures > 0 AND builds.rest_until > clock_timestamp() + builds.pace_ms * interval '1 ms');
  PERFORM pg_notify('flagstone_dirty', NEW.id::text);
  RETURN NULL;
END
$$;

DROP TRIGGER announce_change ON flagstone.projects;
CREATE TRIGGER mark_dirty AFTER INSERT OR UPDATE OF version ON flagstone.projects
  FOR EACH ROW EXECUTE FUNCTION flagstone.mark_dirty();
CREATE TRIGGER announce_change AFTER DELETE ON flagstone.projects
  FOR EACH ROW EXECUTE FUNCTION flagstone.announce_change();

-- Who changed what, when, from what, into what. Nothing is ever changed or taken away here.
CREATE TABLE flagstone.audit (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  project_id bigint NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor text NOT NULL,
  request_id text NOT NULL,
  request_key text,
  kind text NOT NULL,
  item_id bigint NOT NULL,
  action text NOT NULL,
  version bigint NOT NULL,
  before json,
  after json
);

CREATE INDEX audit_of_item ON flagstone.audit (project_id, kind, item_id, version);
CREATE UNIQUE INDEX audit_by_request_key ON flagstone.audit (project_id, kind, request_key)
  WHERE request_key IS NOT NULL;

CREATE FUNCTION flagstone.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'audit records are never changed';
END
$$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON flagstone.audit
  FOR EACH STATEMENT EXECUTE FUNCTION flagstone.refuse_change();

-- Personal keys. The key itself is not kept; a digest of this much randomness needs no salt.
CREATE TABLE flagstone.keys (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  digest text NOT NULL UNIQUE,
  hint text NOT NULL,
  name text NOT NULL,
  scopes text[] NOT NULL,
  projects bigint[],
  created_at timestamptz NOT NULL DEFAULT now(),
  created_by text NOT NULL,
  revoked_at timestamptz
);
