"""How many deliveries are taken a second, beside what else one could do."""
