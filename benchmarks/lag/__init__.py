"""How soon a delivery is answered, and how soon it shows."""
