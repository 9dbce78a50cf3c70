CREATE TABLE counters (
  name  TEXT PRIMARY KEY,
  value BIGINT NOT NULL
);

CREATE TABLE plans (
  hash TEXT PRIMARY KEY,
  plan TEXT NOT NULL
);

CREATE TABLE runs (
  id         @KEY@,
  repository TEXT NOT NULL,
  workflow   TEXT NOT NULL,
  number     BIGINT NOT NULL,
  event      TEXT NOT NULL,
  branch     TEXT NOT NULL,
  sha        TEXT NOT NULL,
  actor      TEXT NOT NULL,
  name       TEXT NOT NULL,
  attempt    BIGINT NOT NULL,
  status     TEXT NOT NULL,
  conclusion TEXT NOT NULL,
  created    BIGINT NOT NULL,
  started    BIGINT NOT NULL,
  completed  BIGINT NOT NULL,
  version    BIGINT NOT NULL,
  snapshot   TEXT NOT NULL,
  plan       TEXT NOT NULL REFERENCES plans (hash),
  UNIQUE (repository, workflow, number)
);

CREATE INDEX runs_active ON runs (id) WHERE status <> 'completed';

CREATE TABLE jobs (
  run      BIGINT NOT NULL REFERENCES runs (id),
  position BIGINT NOT NULL,
  snapshot TEXT NOT NULL,
  PRIMARY KEY (run, position)
);

CREATE TABLE records (
  seq   @KEY@,
  run   BIGINT NOT NULL REFERENCES runs (id),
  event TEXT NOT NULL,
  at    BIGINT NOT NULL
);

CREATE INDEX records_run ON records (run, seq);

CREATE TABLE claims (
  run        BIGINT NOT NULL REFERENCES runs (id),
  position   BIGINT NOT NULL,
  repository TEXT NOT NULL,
  name       TEXT NOT NULL,
  held       BOOLEAN NOT NULL,
  claim      TEXT NOT NULL,
  PRIMARY KEY (run, position)
);

CREATE INDEX claims_name ON claims (repository, name);

CREATE UNIQUE INDEX claims_holder ON claims (repository, name) WHERE held;
