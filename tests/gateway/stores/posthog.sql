-- PostHog's tables, with the columns that deploy/posthog-views.sql uses, as its models have them, and one team in them.
CREATE TABLE posthog_team (
  id serial PRIMARY KEY, api_token varchar(200) NOT NULL UNIQUE, secret_api_token varchar(200),
  secret_api_token_backup varchar(200), name varchar(200) NOT NULL, timezone varchar(240) NOT NULL, updated_at timestamptz);
CREATE TABLE posthog_featureflag (
  id serial PRIMARY KEY, key varchar(400) NOT NULL, name text NOT NULL, filters jsonb NOT NULL, active boolean NOT NULL,
  deleted boolean NOT NULL, version integer, ensure_experience_continuity boolean, bucketing_identifier varchar(50),
  evaluation_runtime varchar(10), is_remote_configuration boolean, has_encrypted_payloads boolean,
  last_called_at timestamptz, team_id integer NOT NULL REFERENCES posthog_team (id));
CREATE TABLE posthog_experiment (id serial PRIMARY KEY, feature_flag_id integer NOT NULL, team_id integer NOT NULL);
CREATE TABLE posthog_cohort (
  id serial PRIMARY KEY, name varchar(400), is_static boolean NOT NULL, deleted boolean NOT NULL, filters jsonb,
  team_id integer NOT NULL);
CREATE TABLE posthog_grouptypemapping (
  id serial PRIMARY KEY, group_type varchar(400) NOT NULL, group_type_index integer NOT NULL, team_id integer NOT NULL);
CREATE TABLE posthog_person (id serial PRIMARY KEY, properties jsonb NOT NULL, team_id integer NOT NULL, uuid uuid);
CREATE TABLE posthog_persondistinctid (
  id serial PRIMARY KEY, distinct_id varchar(400) NOT NULL, person_id bigint NOT NULL, team_id integer NOT NULL,
  UNIQUE (team_id, distinct_id));
CREATE TABLE posthog_cohortpeople (id bigserial PRIMARY KEY, cohort_id integer NOT NULL, person_id bigint NOT NULL);
CREATE TABLE posthog_group (
  id serial PRIMARY KEY, group_key varchar(400) NOT NULL, group_type_index integer NOT NULL,
  group_properties jsonb NOT NULL, team_id integer NOT NULL);
CREATE TABLE posthog_featureflaghashkeyoverride (
  id bigserial PRIMARY KEY, feature_flag_key varchar(400) NOT NULL, hash_key varchar(400) NOT NULL,
  person_id bigint NOT NULL REFERENCES posthog_person (id), team_id integer NOT NULL,
  UNIQUE (team_id, person_id, feature_flag_key));

INSERT INTO posthog_team (api_token, secret_api_token, name, timezone) VALUES ('phc_team', 'phs_1', 'Team', 'Europe/Berlin');
INSERT INTO posthog_grouptypemapping (group_type, group_type_index, team_id) VALUES ('company', 0, 1), ('team', 2, 1);
INSERT INTO posthog_cohort (name, is_static, deleted, filters, team_id) VALUES ('Friends', true, false, NULL, 1);
INSERT INTO posthog_featureflag (key, name, filters, active, deleted, version, ensure_experience_continuity, team_id) VALUES
  ('all', '', '{"groups": [{"properties": [], "rollout_percentage": 100}]}', true, false, 3, false, 1),
  ('gold', '', '{"groups": [{"properties": [{"key": "tier", "type": "person", "value": "gold", "operator": "exact"}]}]}',
   true, false, 1, NULL, 1),
  ('friends', '', '{"groups": [{"properties": [{"key": "id", "type": "cohort", "value": 1}]}]}', true, false, 1, NULL, 1),
  ('big', '', '{"aggregation_group_type_index": 0, "groups": [{"properties":
    [{"key": "size", "type": "group", "group_type_index": 0, "value": "5", "operator": "gt"}]}]}', true, false, 1, NULL, 1),
  ('sticky', '', '{"groups": [{"properties": [], "rollout_percentage": 50}]}', true, false, 1, true, 1),
  ('gone', '', '{"groups": []}', true, true, 1, NULL, 1);
INSERT INTO posthog_experiment (feature_flag_id, team_id) VALUES (1, 1);
INSERT INTO posthog_person (properties, team_id) VALUES ('{"tier": "gold", "other": 1}', 1), ('{}', 1);
INSERT INTO posthog_persondistinctid (distinct_id, person_id, team_id) VALUES ('u1', 1, 1), ('u2', 2, 1);
INSERT INTO posthog_cohortpeople (cohort_id, person_id) VALUES (1, 1);
INSERT INTO posthog_group (group_key, group_type_index, group_properties, team_id) VALUES ('acme', 0, '{"size": 9}', 1);
