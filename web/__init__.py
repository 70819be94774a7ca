"""HTTP: deliveries in, the JSON API out. Nothing here decides what a delivery means."""
