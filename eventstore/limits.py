"""Every limit, with its unit, on one page. Each can be set: `[limits]` or `LOOPLEDGER_LIMITS_<NAME>`."""

from typing import Annotated

import msgspec

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]

MIB = 1024 * 1024


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of anything: because a queue without a limit is a crash without a date."""

    # One delivery. The largest known body is under 4 KiB; a larger one than this is a mistake or an attack.
    body_bytes: Positive = 1 * MIB
    body_seconds: Seconds = 10.0

    # Connections of one process; how many of them strangers may have, who have brought no verified delivery; how many
    # strangers may have from one address, and, apart from them, senders that are known; and the same of an address that
    # is a provider's, by its allow-list, or a declared proxy's. When one of these is reached, a stranger gives way to a
    # newcomer: one that was refused as unverified, or was silent longest. Nobody does within `fresh_seconds` of coming,
    # unless strangers are twice as many.
    connections: Positive = 10_000
    stranger_connections: Positive = 9_000
    address_connections: Positive = 1_000
    trusted_address_connections: Positive = 10_000
    fresh_seconds: Seconds = 1.0

    # A head, and how long it may take once it has begun; and all that came to a process and cannot be used yet: heads
    # without their end, requests behind one that is under way.
    head_bytes: Positive = 16 * 1024
    head_seconds: Seconds = 10.0
    unused_bytes: Positive = 16 * MIB

    # All bodies that are being read at one time by a process, counted as they come: those of senders that their heads
    # verify, and those of strangers, of whom the slowest gives way.
    reading_bytes: Positive = 64 * MIB
    stranger_reading_bytes: Positive = 32 * MIB

    # How long a sender may leave a response unread; and how much of all responses of a process may be unread.
    write_seconds: Seconds = 10.0
    unread_bytes: Positive = 64 * MIB

    # The append queue: what may wait for a commit before the server answers 503.
    queue_deliveries: Positive = 10_000
    queue_bytes: Positive = 64 * MIB

    # One transaction of the appender: large enough to share a commit, small enough to stay quick.
    batch_deliveries: Positive = 1_000
    batch_bytes: Positive = 8 * MIB

    # So many workers of a server append; the others hand their batches to one of those. 0: as many as there are
    # processors, four at most.
    appenders: Annotated[int, msgspec.Meta(ge=0)] = 0

    # How long a request waits for its commit before it is told to try again later.
    append_seconds: Seconds = 10.0

    # One transaction of a projector.
    fold_events: Positive = 1_000
    fold_bytes: Positive = 8 * MIB

    # States that a live projection keeps in memory, of the things that changed last (about 1 KB each); besides those of
    # its last ten folds.
    fold_streams: Positive = 20_000

    # So many things in a row of which no event of one topic can be folded are no accident: the projection stops instead
    # of going on. Of one tenant at most nine tenths count, if others are known; above 1,000 it never stops.
    failures_in_a_row: Positive = 100

    # How long a projection waits for an event that the head says is on record and that is not there, before that is an
    # error. Where the log is distributed over machines, one may come late.
    gap_seconds: Seconds = 20.0

    # How far the time of the newest event may be ahead of the clock of the database before that is reported.
    clock_ahead_seconds: Seconds = 60.0

    # How many events a second are looked through, again and again, to see that none is missing.
    scan_events: Positive = 20_000

    # A rebuild: its processes (0: as many as there are processors, eight at most), the streams that each holds in
    # memory at a time (about 1.5 KB each; of more it makes several passes), the positions it reads at a time.
    rebuild_processes: Annotated[int, msgspec.Meta(ge=0)] = 0
    rebuild_streams: Positive = 250_000
    rebuild_events: Positive = 50_000

    # How far a live projection may fall behind, in events, before a rebuild waits for it.
    rebuild_lag: Positive = 5_000

    # Generations that were live before and are kept, for a rollback.
    retired_kept: Positive = 1

    # A list answer: how many items when not told, and at most.
    page_items: Positive = 100
    page_items_max: Positive = 1_000

    # Histories that a process keeps in memory as JSON, those asked for last (about 1 KB an event); of one, a quarter.
    history_bytes: Positive = 32 * MIB

    # Whole lists, as CSV or NDJSON: how many a process reads at one time, each on a connection of its own, and how long
    # one may take. Who leaves what is written unread for `write_seconds` is cut off.
    whole_lists: Positive = 4
    whole_list_seconds: Seconds = 600.0

    # Live streams of one process, and those of one key; what is kept for one that does not take it yet; what one that
    # begins in the past reads at a time, and how many do so at one time; and how often one says that it is there. Who
    # leaves what is written unread for `write_seconds` is cut off.
    streams: Positive = 2_000
    key_streams: Positive = 1_000
    stream_items: Positive = 1_000
    stream_page_items: Positive = 200
    stream_reads: Positive = 4
    heartbeat_seconds: Seconds = 15.0

    # The body of a request of the API: none needs more.
    api_body_bytes: Positive = 64 * 1024

    # Requests to the API of one process that may wait for their turn, while deliveries come first; more get 503.
    reads_waiting: Positive = 1_000

    # Keys of the API that are not revoked, and so many that are.
    keys_kept: Positive = 1_000

    # Requests with one key, or with wrong ones from one address, to one process: how many a second in the long run, and
    # how many at once. More get a 429.
    key_requests_per_second: Positive = 5_000
    key_requests_at_once: Positive = 10_000
    key_failures_per_second: Positive = 10
    key_failures_at_once: Positive = 100

    # Searches with one key, by the full number or code of a card, that find nothing: how many a second in the long run,
    # and how many at once, in one process; ten times as many with all keys together. More get a 429.
    find_misses_per_second: Annotated[float, msgspec.Meta(gt=0)] = 0.1
    find_misses_at_once: Positive = 20

    # How long `?at_least=` waits for a projection.
    at_least_seconds: Seconds = 5.0

    # Connections of one process to Postgres, besides the appender's own.
    pool_connections: Positive = 10

    # The truth behind every wake-up: how often a reader looks for new events when nobody told it.
    poll_seconds: Seconds = 1.0

    # Write-ahead log that the embedded Postgres makes ahead and keeps, if the disk has twenty times as much room: a new
    # file of it holds appends up for up to 45 ms. 0: none.
    wal_ready_mib: Annotated[int, msgspec.Meta(ge=0)] = 512

    # Stopping: how long the queue may drain, then how long Postgres may take.
    drain_seconds: Seconds = 1.0
    stop_seconds: Seconds = 2.5

    # Verified deliveries of one address: how many a second in the long run, and how many at once. More get a 429.
    address_requests_per_second: Positive = 5_000
    address_requests_at_once: Positive = 10_000
    addresses_remembered: Positive = 10_000

    # Requests of one address that fail to be verified, apart from those above: more get a 429 instead of a 401. Whether
    # a signature is right shows only once it is computed: of so many bytes a second, for all such addresses together.
    address_failures_per_second: Positive = 100
    address_failures_at_once: Positive = 1_000
    suspect_signature_bytes_per_second: Positive = 64 * MIB

    # Rejections on record of one provider's verified senders: how many, with how many bytes in all, and how much of
    # each body and of its headers.
    rejections_kept: Positive = 1_000
    rejections_bytes: Positive = 32 * MIB
    rejection_body_bytes: Positive = 64 * 1024
    rejection_header_bytes: Positive = 16 * 1024

    # Those of strangers, of whom no body is kept.
    stranger_rejections_kept: Positive = 200
    stranger_rejection_header_bytes: Positive = 2 * 1024

    # What one server writes of either, of one provider, a second, all its processes together.
    rejections_per_second: Positive = 100
    rejection_bytes_per_second: Positive = 256 * 1024
    stranger_rejections_per_second: Positive = 20
    stranger_rejection_bytes_per_second: Positive = 32 * 1024
