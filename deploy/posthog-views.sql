-- Lets flagstone read, and keep overrides in, the database of a self-hosted PostHog: views with the names and columns
-- that flagstone queries, over PostHog's own tables. Run it once in PostHog's database, as a role that may create a schema:
--
--   psql "$POSTGRES_URL" -f deploy/posthog-views.sql
--
-- and give the role that flagstone connects as no more than it needs:
--
--   GRANT USAGE ON SCHEMA flagstone TO flagstone;
--   GRANT SELECT ON ALL TABLES IN SCHEMA flagstone TO flagstone;
--   GRANT INSERT ON flagstone.overrides TO flagstone;
--
-- Flags are edited in PostHog: `flagstone migrate`, `import`, `export`, the API for managing and the builder are for
-- flagstone's own tables (set builder.is_embedded and api.is_enabled to false). Nothing announces changes here; they are
-- found by comparing versions. Flags' evaluation contexts and encrypted payloads are not mapped.

BEGIN;

CREATE SCHEMA IF NOT EXISTS flagstone;

-- The transaction that wrote a row, numbered so that it never goes back when the 32 bits kept in the row wrap around: a
-- row may then only seem to be newer than it is.
CREATE OR REPLACE FUNCTION flagstone.written_by(xmin xid) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN here.number > now.number THEN here.number - (1::bigint << 32) ELSE here.number END
  FROM (SELECT txid_snapshot_xmax(txid_current_snapshot()) AS number) AS now,
    LATERAL (SELECT (now.number >> 32 << 32) + xmin::text::bigint AS number) AS here
$$;

-- The version is the newest transaction that wrote any row a project's definitions are made of, so every change makes
-- a greater version, also one that bypasses updated_at. Deleting a row for good, which PostHog does not do to flags, is
-- noticed with the next change of another row.
CREATE OR REPLACE VIEW flagstone.projects AS
SELECT
  team.id::bigint AS id,
  team.api_token::text AS token,
  greatest(
    flagstone.written_by(team.xmin),
    (SELECT max(flagstone.written_by(flag.xmin)) FROM posthog_featureflag AS flag WHERE flag.team_id = team.id),
    (SELECT max(flagstone.written_by(cohort.xmin)) FROM posthog_cohort AS cohort WHERE cohort.team_id = team.id),
    (SELECT max(flagstone.written_by(kind.xmin)) FROM posthog_grouptypemapping AS kind WHERE kind.team_id = team.id)
  ) AS version,
  json_build_object(
    'id', team.id,
    'token', team.api_token,
    'name', team.name,
    'secret_tokens', to_json(array_remove(ARRAY[team.secret_api_token::text, team.secret_api_token_backup::text], NULL)),
    'timezone', coalesce(nullif(team.timezone, ''), 'UTC'),
    'group_types', (
      -- Names stand at the place of their index; an index that nobody uses leaves an empty name.
      SELECT coalesce(json_agg(coalesce(kind.group_type, '') ORDER BY place.index), '[]')
      FROM generate_series(
        0, (SELECT max(last.group_type_index) FROM posthog_grouptypemapping AS last WHERE last.team_id = team.id)
      ) AS place (index)
      LEFT JOIN posthog_grouptypemapping AS kind
        ON kind.team_id = team.id AND kind.group_type_index = place.index
    )
  ) AS document
FROM posthog_team AS team;

CREATE OR REPLACE VIEW flagstone.flags AS
SELECT
  flag.team_id::bigint AS project_id,
  flag.id::bigint AS id,
  json_build_object(
    'id', flag.id,
    'key', flag.key,
    'name', flag.name,
    'active', flag.active,
    'deleted', flag.deleted,
    'version', flag.version,
    'filters', flag.filters,
    'ensure_experience_continuity', flag.ensure_experience_continuity,
    'bucketing_identifier', flag.bucketing_identifier,
    'evaluation_runtime', flag.evaluation_runtime,
    'is_remote_configuration', flag.is_remote_configuration,
    'has_encrypted_payloads', flag.has_encrypted_payloads,
    'has_experiment', EXISTS (
      SELECT FROM posthog_experiment AS experiment WHERE experiment.feature_flag_id = flag.id
    )
  ) AS document
FROM posthog_featureflag AS flag
WHERE NOT flag.deleted;

CREATE OR REPLACE VIEW flagstone.cohorts AS
SELECT
  cohort.team_id::bigint AS project_id,
  cohort.id::bigint AS id,
  json_build_object(
    'id', cohort.id, 'name', cohort.name, 'is_static', cohort.is_static, 'filters', cohort.filters
  ) AS document
FROM posthog_cohort AS cohort
WHERE NOT cohort.deleted;

-- Nobody builds here: what PostHog has is what is served, put together when it is loaded.
CREATE OR REPLACE VIEW flagstone.published AS
SELECT project.id AS project_id, project.version, 'posthog'::text AS build FROM flagstone.projects AS project;

CREATE OR REPLACE VIEW flagstone.published_parts AS
SELECT
  project.id AS project_id,
  'posthog'::text AS build,
  0 AS number,
  convert_to((project.document::jsonb || jsonb_build_object(
    'flags', coalesce(
      (SELECT jsonb_agg(flag.document ORDER BY flag.id) FROM flagstone.flags AS flag WHERE flag.project_id = project.id),
      '[]'
    ),
    'cohorts', coalesce(
      (SELECT jsonb_agg(cohort.document ORDER BY cohort.id)
       FROM flagstone.cohorts AS cohort WHERE cohort.project_id = project.id),
      '[]'
    )
  ))::text, 'UTF8') AS part
FROM flagstone.projects AS project;

CREATE OR REPLACE VIEW flagstone.persons AS
SELECT person.id::bigint AS id, person.team_id::bigint AS project_id, person.properties
FROM posthog_person AS person;

CREATE OR REPLACE VIEW flagstone.distinct_ids AS
SELECT known.team_id::bigint AS project_id, known.distinct_id::text AS distinct_id, known.person_id::bigint AS person_id
FROM posthog_persondistinctid AS known;

CREATE OR REPLACE VIEW flagstone.cohort_members AS
SELECT member.person_id::bigint AS person_id, member.cohort_id::bigint AS cohort_id
FROM posthog_cohortpeople AS member;

CREATE OR REPLACE VIEW flagstone.groups AS
SELECT
  stored.team_id::bigint AS project_id,
  kind.group_type::text AS type,
  stored.group_key::text AS key,
  stored.group_properties AS properties
FROM posthog_group AS stored
JOIN posthog_grouptypemapping AS kind
  ON kind.team_id = stored.team_id AND kind.group_type_index = stored.group_type_index;

-- Plain columns of one table, so that PostgreSQL can insert through it.
CREATE OR REPLACE VIEW flagstone.overrides AS
SELECT kept.team_id AS project_id, kept.person_id, kept.feature_flag_key AS flag_key, kept.hash_key
FROM posthog_featureflaghashkeyoverride AS kept;

COMMIT;
