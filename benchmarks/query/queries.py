"""The SQL of this folder."""

from pathlib import Path

from eventstore.postgres.queries import load_queries

QUERIES = load_queries(Path(__file__).with_name("query.sql"))
