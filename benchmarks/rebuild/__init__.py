"""How fast a projection is rebuilt, beside what else one could do."""
