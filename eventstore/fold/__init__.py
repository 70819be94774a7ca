"""Folding the log into states: what a projection is, its tables, and the projector that follows the log."""
