"""What it costs to count a delivery."""
