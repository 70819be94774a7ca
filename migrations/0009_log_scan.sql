-- How far the log was looked through for holes.

CREATE TABLE log_scan (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    position bigint NOT NULL DEFAULT 0,
    hole bigint,
    found_at timestamptz
);

INSERT INTO log_scan DEFAULT VALUES;
