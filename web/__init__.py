"""HTTP: webhooks in, answers out. Nothing here decides what a delivery means."""
