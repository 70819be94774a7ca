"""The commands that ask a running server: one file each, and what they share."""
