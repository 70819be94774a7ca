-- key --
-- How the index by stream is made, in every partition.
SELECT replace(pg_get_indexdef('events_stream'::regclass), ' ON ONLY ', ' ON ')

-- drop_key --
-- While a log is loaded, nobody asks for a stream.
DROP INDEX events_stream

-- sort_in_memory --
-- For this transaction: memory to sort for an index.
SET LOCAL maintenance_work_mem = '256MB'

-- make_key --
-- As it was.
{key}

-- move_head --
-- The head stands where the events end.
UPDATE log_head SET (position, recorded_at) = (SELECT position, recorded_at FROM events ORDER BY position DESC LIMIT 1)

-- sample --
-- Some events from all over the log, about $1.
SELECT provider, topic, merchant_id, program_id, stream, headers, body
FROM log_head AS h, generate_series(1, h.position, greatest(1, h.position / $1)) AS n
JOIN events AS e ON e.position = n

-- limit --
-- The events themselves, and nothing done with them.
SELECT position, provider, topic, merchant_id, program_id, stream, received_at, recorded_at, body
FROM events
WHERE position <= $1

-- make --
-- A table like the live one of a projection, as yet without indexes.
CREATE TABLE {table} (LIKE {live})

-- indexes --
-- How the indexes of a table are made; one may be a primary key.
SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'projected' AND tablename = $1 ORDER BY indexname

-- table_hash --
-- How many rows a table has, and what these columns of all of them together hash to.
SELECT count(*) AS rows, coalesce(sum(hashtextextended(ROW({names})::text, 0)::numeric), 0) AS hash FROM {table}

-- gift_cards --
-- What the gift cards are after event $1: the newest snapshot of each, by the provider's time.
INSERT INTO {table} (
    stream, position, provider, merchant_id, program_id, id, created_at, updated_at, deleted_at, type, status, balance,
    currency, code, gan
)
SELECT DISTINCT ON (e.stream)
    e.stream, e.position, e.provider, e.merchant_id, e.program_id, b.id, b.created_on, b.updated_on,
    CASE WHEN e.topic = 'gift-card.deleted' THEN b.updated_on END,
    b.type, b.status, (b.balance ->> 'amount')::bigint, b.balance ->> 'currencyCode', b.code, b.gan
FROM
    events AS e,
    jsonb_to_record(convert_from(e.body, 'UTF8')::jsonb) AS b (
        id text, created_on timestamptz, updated_on timestamptz, type text, status text, balance jsonb, code text,
        gan text
    )
WHERE
    e.position <= $1 AND e.provider = 'loopz'
    AND e.topic IN ('gift-card.created', 'gift-card.updated', 'gift-card.deleted')
ORDER BY e.stream, b.updated_on DESC, e.position DESC

-- transactions --
-- What the transactions of both providers are after event $1: the newest snapshot of each, by the provider's time. That a
-- payment of FitBank was created is an event of its own: hence the window, over the order that is sorted for anyway.
INSERT INTO {table} (
    stream, position, provider, merchant_id, program_id, id, created_at, updated_at, deleted_at, kind, method, status,
    phase, amount, tip, currency, gift_card_id, location_id, reference
)
SELECT DISTINCT ON (e.stream)
    e.stream, e.position, e.provider, e.merchant_id, e.program_id,
    CASE e.provider WHEN 'fitbank' THEN coalesce(b."TransactionIdentifier", b."Identifier") ELSE b.id END,
    CASE e.provider
        WHEN 'fitbank' THEN min(b."Date") FILTER (WHERE b."Status" = 'Created') OVER snapshots
        ELSE b.created_on
    END,
    coalesce(b."Date", b.updated_on),
    CASE WHEN e.topic = 'transaction.deleted' THEN b.updated_on END,
    CASE e.provider
        WHEN 'fitbank' THEN
            CASE e.topic
                WHEN 'UpdatePurchaseClosedLoopStatusMongo' THEN 'purchase'
                WHEN 'UpdateDepositClosedLoopStatusMongo' THEN 'withdrawal'
                WHEN 'UpdateWithdrawalClosedLoopStatusMongo' THEN 'deposit'
            END
        ELSE
            CASE upper(b.type)
                WHEN 'REDEMPTION' THEN 'redeem' WHEN 'REDEEMED' THEN 'redeem' WHEN 'TOP_UP' THEN 'topup'
                ELSE lower(b.type)
            END
    END,
    CASE e.provider WHEN 'fitbank' THEN e.topic ELSE b.type END,
    CASE e.provider WHEN 'fitbank' THEN b."Status" ELSE b.status END,
    CASE e.provider
        WHEN 'fitbank' THEN
            CASE lower(b."Status")
                WHEN 'created' THEN 'created' WHEN 'canbepreauthorized' THEN 'created'
                WHEN 'authorized' THEN 'authorized' WHEN 'presettled' THEN 'settling' WHEN 'settled' THEN 'settled'
                WHEN 'canceled' THEN 'canceled' WHEN 'cancelled' THEN 'canceled' WHEN 'error' THEN 'failed'
                ELSE 'unknown'
            END
        ELSE
            CASE
                WHEN upper(b.status) IN ('CREATED', 'PENDING') THEN 'created'
                WHEN upper(b.status) = 'AUTHORIZED' THEN 'authorized'
                WHEN upper(b.status)
                    IN ('APPROVED', 'COMPLETE', 'COMPLETED', 'SETTLED', 'SUCCESS', 'SUCCEEDED') THEN 'settled'
                WHEN upper(b.status) IN ('CANCELED', 'CANCELLED', 'VOIDED') THEN 'canceled'
                WHEN upper(b.status) IN ('DECLINED', 'ERROR', 'FAILED') THEN 'failed'
                ELSE 'unknown'
            END
    END,
    CASE e.provider WHEN 'fitbank' THEN round(b."TotalValue", 2) ELSE (b.amount ->> 'amount')::bigint * 0.01 END,
    (b.tip ->> 'amount')::bigint * 0.01,
    b.amount ->> 'currencyCode', b.gift_card_id, b.location_id, b."Identifier"
FROM
    events AS e,
    jsonb_to_record(convert_from(e.body, 'UTF8')::jsonb) AS b (
        id text, created_on timestamptz, updated_on timestamptz, type text, status text, amount jsonb, tip jsonb,
        gift_card_id text, location_id text, "TransactionIdentifier" text, "Identifier" text, "Status" text,
        "Date" timestamptz, "TotalValue" numeric
    )
WHERE
    e.position <= $1
    AND (e.provider, e.topic) IN (
        ('loopz', 'transaction.created'), ('loopz', 'transaction.updated'), ('loopz', 'transaction.deleted'),
        ('fitbank', 'UpdatePurchaseClosedLoopStatusMongo'), ('fitbank', 'UpdateDepositClosedLoopStatusMongo'),
        ('fitbank', 'UpdateWithdrawalClosedLoopStatusMongo')
    )
WINDOW snapshots AS (
    PARTITION BY e.stream ORDER BY coalesce(b."Date", b.updated_on) DESC, e.position DESC
    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
)
ORDER BY e.stream, coalesce(b."Date", b.updated_on) DESC, e.position DESC

-- library_events --
-- What the eventsourcing library is to fold, in its own words; what its transcoder does not know is text.
SELECT
    stream AS originator_id, row_number() OVER (PARTITION BY stream ORDER BY position) AS originator_version,
    position, event_id::text, provider, topic, merchant_id, program_id, received_at::text,
    convert_from(body, 'UTF8') AS body
FROM events
WHERE position <= %s
ORDER BY position

-- library_table --
-- The states that it writes, by stream: no index besides.
CREATE TABLE gift_cards (
    stream text PRIMARY KEY, position bigint NOT NULL, provider text NOT NULL, merchant_id text NOT NULL,
    program_id text, id text NOT NULL, created_at timestamptz, updated_at timestamptz, deleted_at timestamptz,
    effective_at timestamptz, merge text, type text, status text, balance bigint, currency text, code text, gan text
)

-- library_state --
-- A state that it wrote.
SELECT {names} FROM gift_cards WHERE stream = %s

-- library_save --
-- Write a state, new or changed.
INSERT INTO gift_cards (stream, position, {names}) VALUES (%s, %s, {values})
ON CONFLICT (stream) DO UPDATE SET position = excluded.position, {changes}
