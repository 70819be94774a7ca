"""Questions about states and their past."""
