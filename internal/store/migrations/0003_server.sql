CREATE TABLE users (
  id      @KEY@,
  login   TEXT NOT NULL,
  name    @NAME@ NOT NULL UNIQUE, -- the login in lower case
  admin   BOOLEAN NOT NULL,
  created BIGINT NOT NULL
);

CREATE TABLE tokens (
  id      @KEY@,
  owner   BIGINT NOT NULL REFERENCES users (id),
  name    TEXT NOT NULL,
  hash    @BYTES@ NOT NULL UNIQUE,
  scopes  TEXT NOT NULL,
  created BIGINT NOT NULL,
  expires BIGINT NOT NULL,
  used    BIGINT NOT NULL
);

CREATE INDEX tokens_owner ON tokens (owner, id);

CREATE TABLE repositories (
  id             @KEY@,
  owner          TEXT NOT NULL,
  name           TEXT NOT NULL,
  full_name      @NAME@ NOT NULL UNIQUE, -- owner/name in lower case
  default_branch TEXT NOT NULL,
  private        BOOLEAN NOT NULL,
  archived       BOOLEAN NOT NULL,
  created        BIGINT NOT NULL
);

CREATE TABLE members (
  repository BIGINT NOT NULL REFERENCES repositories (id),
  member     BIGINT NOT NULL REFERENCES users (id),
  role       TEXT NOT NULL CHECK (role IN ('read', 'write', 'maintain', 'admin')),
  PRIMARY KEY (repository, member)
);

CREATE INDEX members_member ON members (member, repository);

CREATE TABLE environments (
  id         @KEY@,
  repository BIGINT NOT NULL REFERENCES repositories (id),
  name       TEXT NOT NULL,
  folded     @NAME@ NOT NULL, -- the name in lower case
  rules      TEXT NOT NULL,
  created    BIGINT NOT NULL,
  updated    BIGINT NOT NULL,
  UNIQUE (repository, folded)
);

CREATE TABLE secrets (
  scope      @NAME@ NOT NULL,
  name       @NAME@ NOT NULL,
  repository BIGINT REFERENCES repositories (id), -- NULL for those of an owner
  value      @BYTES@ NOT NULL,
  sealed_by  @NAME@ NOT NULL,
  visibility TEXT NOT NULL,
  selected   TEXT NOT NULL,
  created    BIGINT NOT NULL,
  updated    BIGINT NOT NULL,
  PRIMARY KEY (scope, name)
);

CREATE INDEX secrets_sealed_by ON secrets (sealed_by, scope, name);

CREATE TABLE variables (
  scope      @NAME@ NOT NULL,
  name       @NAME@ NOT NULL,
  repository BIGINT REFERENCES repositories (id),
  value      TEXT NOT NULL,
  visibility TEXT NOT NULL,
  selected   TEXT NOT NULL,
  created    BIGINT NOT NULL,
  updated    BIGINT NOT NULL,
  PRIMARY KEY (scope, name)
);

CREATE TABLE workflows (
  id         @KEY@,
  repository BIGINT NOT NULL REFERENCES repositories (id),
  path       @NAME@ NOT NULL,
  name       TEXT NOT NULL,
  state      TEXT NOT NULL,
  created    BIGINT NOT NULL,
  updated    BIGINT NOT NULL,
  UNIQUE (repository, path)
);

CREATE TABLE schedules (
  repository BIGINT NOT NULL REFERENCES repositories (id),
  workflow   @NAME@ NOT NULL,
  cron       @NAME@ NOT NULL,
  zone       @NAME@ NOT NULL,
  next       BIGINT NOT NULL,
  PRIMARY KEY (repository, workflow, cron, zone)
);

CREATE INDEX schedules_next ON schedules (next);

CREATE TABLE job_numbers (
  id      @KEY@,
  run     BIGINT NOT NULL REFERENCES runs (id),
  attempt BIGINT NOT NULL,
  job     TEXT NOT NULL,
  name    @NAME@ NOT NULL, -- the job as an index takes it
  UNIQUE (run, attempt, name)
);

CREATE TABLE audit (
  seq    @KEY@,
  actor  @NAME@ NOT NULL,
  action @NAME@ NOT NULL,
  target @NAME@ NOT NULL,
  body   TEXT NOT NULL,
  hash   @BYTES@ NOT NULL
);

CREATE INDEX audit_target ON audit (target, seq);

CREATE TABLE servers (
  id      @NAME@ PRIMARY KEY,
  address TEXT NOT NULL,
  beats   BIGINT NOT NULL
);

-- What pages and GitHub's API list: the runs of a repository, and those of a commit.
CREATE INDEX runs_repository ON runs (repository, id);
CREATE INDEX runs_sha ON runs (repository, sha, id);
