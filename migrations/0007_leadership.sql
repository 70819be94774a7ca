-- Who projects, for how many terms somebody has; and how many attempts a build has had.

CREATE TABLE leadership (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    term bigint NOT NULL DEFAULT 0,
    pid integer,
    backend_start timestamptz,
    began_at timestamptz
);

INSERT INTO leadership DEFAULT VALUES;

ALTER TABLE projections
    ADD COLUMN attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    ADD COLUMN waiting text;
