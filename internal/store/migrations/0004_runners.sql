CREATE TABLE runners (
  id        @KEY@,
  name      TEXT NOT NULL,
  folded    @NAME@ NOT NULL UNIQUE, -- the name in lower case
  os        TEXT NOT NULL,
  arch      TEXT NOT NULL,
  labels    TEXT NOT NULL,
  ephemeral BOOLEAN NOT NULL,
  hash      @BYTES@ NOT NULL UNIQUE,
  created   BIGINT NOT NULL,
  seen      BIGINT NOT NULL
);
