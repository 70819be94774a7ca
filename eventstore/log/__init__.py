"""The log: what an event is, appending, reading, and knowing how far it reaches."""
