-- compare --
-- How many states there are, and what became of them; then, of those that both have, how many differ in each column.
SELECT
    count(o.stream), count(n.stream),
    count(*) FILTER (WHERE o.stream IS NULL),
    count(*) FILTER (WHERE n.stream IS NULL),
    count(*) FILTER (WHERE o.stream = n.stream AND {differs}),
    {counts}
FROM {old} AS o FULL JOIN {new} AS n ON o.stream = n.stream

-- totals --
-- What they add up to, in groups.
SELECT {by}, sum(before)::numeric AS before, sum(after)::numeric AS after
FROM (
    SELECT {by}, coalesce("{amount}", 0)::numeric AS before, 0::numeric AS after FROM {old} {where}
    UNION ALL
    SELECT {by}, 0::numeric, coalesce("{amount}", 0)::numeric FROM {new} {where}
) AS amounts
GROUP BY {by}
ORDER BY {by}

-- compare_journals --
-- How many entries there are, and how many only one side has.
SELECT
    count(o.stream), count(n.stream),
    count(*) FILTER (WHERE o.stream IS NULL OR (n.stream = o.stream AND {differs})),
    count(*) FILTER (WHERE n.stream IS NULL OR (n.stream = o.stream AND {differs}))
FROM {old} AS o FULL JOIN {new} AS n ON o.stream = n.stream AND o.position = n.position

-- sample --
-- Some of the states that differ, or that only one side has.
SELECT coalesce(o.stream, n.stream) AS stream, {columns}
FROM {old} AS o FULL JOIN {new} AS n ON o.stream = n.stream
WHERE o.stream IS NULL OR n.stream IS NULL OR {differs}
ORDER BY 1
LIMIT {limit}

-- journals_part --
-- The first event of a stream of which the journals do not say the same.
SELECT min(coalesce(o.position, n.position))
FROM (SELECT * FROM {old} WHERE stream = $1) AS o
FULL JOIN (SELECT * FROM {new} WHERE stream = $1) AS n ON o.position = n.position
WHERE o.position IS NULL OR n.position IS NULL OR {differs}

-- snapshot --
-- Where generation $2 and the live one stand, in the snapshot that is compared.
SELECT new.checkpoint AS position, live.checkpoint AS live_position, live.generation AS live
FROM projections AS new JOIN projections AS live ON live.name = new.name AND live.status = 'live'
WHERE new.name = $1 AND new.generation = $2
