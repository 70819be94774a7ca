"""Rebuilds: a new generation beside the live one, compared with it, and promoted."""
