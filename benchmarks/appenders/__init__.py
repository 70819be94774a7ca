"""How many of the workers of a machine should append."""
