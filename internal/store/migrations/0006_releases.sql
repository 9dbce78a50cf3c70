-- A place is an environment of a repository, in lower case.
CREATE TABLE releases (
  id         @KEY@,
  place      @NAME@ NOT NULL,
  number     BIGINT NOT NULL, -- within its place, from 1
  repository @NAME@ NOT NULL, -- in lower case
  phase      TEXT NOT NULL,
  active     BOOLEAN NOT NULL, -- something of it runs, or is to be done
  created    BIGINT NOT NULL,
  ended      BIGINT NOT NULL,
  version    BIGINT NOT NULL,
  plan       TEXT NOT NULL,
  extra      TEXT NOT NULL,
  snapshot   TEXT NOT NULL, -- without the plan
  UNIQUE (place, number)
);

CREATE INDEX releases_active ON releases (id) WHERE active;

CREATE INDEX releases_repository ON releases (repository, id);

CREATE TABLE release_records (
  seq     @KEY@,
  release BIGINT NOT NULL REFERENCES releases (id),
  event   TEXT NOT NULL,
  at      BIGINT NOT NULL
);

CREATE INDEX release_records_release ON release_records (release, seq);

-- The values of a service's secrets as they were when the release began, all in one.
CREATE TABLE release_secrets (
  release   BIGINT NOT NULL REFERENCES releases (id),
  service   @NAME@ NOT NULL,
  value     @BYTES@ NOT NULL,
  sealed_by @NAME@ NOT NULL,
  PRIMARY KEY (release, service)
);

CREATE INDEX release_secrets_sealed_by ON release_secrets (sealed_by, release, service);

-- Which server carries the releases of a place, by its name.
CREATE TABLE carriers (
  place  @NAME@ PRIMARY KEY,
  server TEXT NOT NULL
);
