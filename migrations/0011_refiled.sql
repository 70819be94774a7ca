-- Events that a generation folded in another stream than that on record.

CREATE TABLE refiled (
    projection text NOT NULL,
    generation integer NOT NULL,
    position bigint NOT NULL,
    stream text NOT NULL,
    refiled_to text COLLATE "C" NOT NULL,
    PRIMARY KEY (projection, generation, refiled_to, position),
    FOREIGN KEY (projection, generation) REFERENCES projections (name, generation) ON DELETE CASCADE
);
