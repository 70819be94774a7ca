"""Simulated providers: a believable stream of webhook deliveries, and a client that sends them."""
