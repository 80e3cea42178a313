-- Definitions are kept as the JSON they came as; columns beside it are what is looked up. The service reads and writes
-- only these relations, by their full names, so that views over another system's tables can stand in for them.
CREATE TABLE flagstone.projects (
  id bigint PRIMARY KEY,
  token text NOT NULL UNIQUE,
  version bigint NOT NULL,
  document json NOT NULL
);

CREATE TABLE flagstone.flags (
  project_id bigint NOT NULL REFERENCES flagstone.projects (id) ON DELETE CASCADE,
  id bigint NOT NULL,
  document json NOT NULL,
  PRIMARY KEY (project_id, id)
);

CREATE TABLE flagstone.cohorts (
  project_id bigint NOT NULL REFERENCES flagstone.projects (id) ON DELETE CASCADE,
  id bigint NOT NULL,
  document json NOT NULL,
  PRIMARY KEY (project_id, id)
);

CREATE TABLE flagstone.persons (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  project_id bigint NOT NULL REFERENCES flagstone.projects (id) ON DELETE CASCADE,
  properties jsonb NOT NULL
);

CREATE INDEX persons_of_project ON flagstone.persons (project_id);

CREATE TABLE flagstone.distinct_ids (
  project_id bigint NOT NULL,
  distinct_id text NOT NULL,
  person_id bigint NOT NULL REFERENCES flagstone.persons (id) ON DELETE CASCADE,
  PRIMARY KEY (project_id, distinct_id)
);

CREATE INDEX distinct_ids_of_person ON flagstone.distinct_ids (person_id);

CREATE TABLE flagstone.cohort_members (
  person_id bigint NOT NULL REFERENCES flagstone.persons (id) ON DELETE CASCADE,
  cohort_id bigint NOT NULL,
  PRIMARY KEY (person_id, cohort_id)
);

CREATE TABLE flagstone.groups (
  project_id bigint NOT NULL REFERENCES flagstone.projects (id) ON DELETE CASCADE,
  type text NOT NULL,
  key text NOT NULL,
  properties jsonb NOT NULL,
  PRIMARY KEY (project_id, type, key)
);

CREATE TABLE flagstone.overrides (
  project_id bigint NOT NULL,
  person_id bigint NOT NULL REFERENCES flagstone.persons (id) ON DELETE CASCADE,
  flag_key text NOT NULL,
  hash_key text NOT NULL,
  PRIMARY KEY (person_id, flag_key)
);

CREATE FUNCTION flagstone.announce_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('flagstone_changes', coalesce(NEW.id, OLD.id)::text);
  RETURN NULL;
END
$$;

CREATE TRIGGER announce_change AFTER INSERT OR UPDATE OR DELETE ON flagstone.projects
  FOR EACH ROW EXECUTE FUNCTION flagstone.announce_change();
