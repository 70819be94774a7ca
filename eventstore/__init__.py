"""The engine: an append-only log in Postgres and the projections that fold it.

It knows nothing of gift cards and nothing of HTTP.
"""
