"""What strangers cost."""
