"""The JSON API: a module for what is asked about."""
