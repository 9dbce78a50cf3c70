ALTER TABLE servers RENAME COLUMN address TO name;

-- The leases that a server has heard of lately, as a JSON list.
ALTER TABLE servers ADD COLUMN heard TEXT NOT NULL DEFAULT '[]';
