"""Deliveries in: from a provider's request to an event on record."""
