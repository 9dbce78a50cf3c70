CREATE TABLE documents (
  id         @KEY@,
  repository TEXT NOT NULL,
  kind       TEXT NOT NULL,
  parent     TEXT NOT NULL,
  name       TEXT NOT NULL,
  version    BIGINT NOT NULL,
  body       TEXT NOT NULL
);

CREATE INDEX documents_parent ON documents (repository, kind, parent, id);

CREATE UNIQUE INDEX documents_name ON documents (repository, kind, parent, name) WHERE name <> '';
