"""Deliveries in."""
