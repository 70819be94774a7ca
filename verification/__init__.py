"""Verification: whether a delivery is from whom it claims to be. Pure: the time and the secrets are arguments."""
