"""How fast questions are answered."""
