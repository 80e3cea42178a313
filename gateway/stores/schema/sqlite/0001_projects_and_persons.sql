-- Definitions are kept as the JSON they came as; columns beside it are what is looked up.
CREATE TABLE projects (
  id INTEGER PRIMARY KEY,
  token TEXT NOT NULL UNIQUE,
  version INTEGER NOT NULL,
  document TEXT NOT NULL
) STRICT;

CREATE TABLE flags (
  project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
  id INTEGER NOT NULL,
  document TEXT NOT NULL,
  PRIMARY KEY (project_id, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE cohorts (
  project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
  id INTEGER NOT NULL,
  document TEXT NOT NULL,
  PRIMARY KEY (project_id, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE persons (
  id INTEGER PRIMARY KEY,
  project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
  properties TEXT NOT NULL
) STRICT;

CREATE INDEX persons_of_project ON persons (project_id);

CREATE TABLE distinct_ids (
  project_id INTEGER NOT NULL,
  distinct_id TEXT NOT NULL,
  person_id INTEGER NOT NULL REFERENCES persons (id) ON DELETE CASCADE,
  PRIMARY KEY (project_id, distinct_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX distinct_ids_of_person ON distinct_ids (person_id);

CREATE TABLE cohort_members (
  person_id INTEGER NOT NULL REFERENCES persons (id) ON DELETE CASCADE,
  cohort_id INTEGER NOT NULL,
  PRIMARY KEY (person_id, cohort_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE groups (
  project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
  type TEXT NOT NULL,
  key TEXT NOT NULL,
  properties TEXT NOT NULL,
  PRIMARY KEY (project_id, type, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE overrides (
  person_id INTEGER NOT NULL REFERENCES persons (id) ON DELETE CASCADE,
  flag_key TEXT NOT NULL,
  hash_key TEXT NOT NULL,
  PRIMARY KEY (person_id, flag_key)
) STRICT, WITHOUT ROWID;
