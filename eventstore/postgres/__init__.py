"""Postgres: connections and schema, which error means what, and the embedded server."""
