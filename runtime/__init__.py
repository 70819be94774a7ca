"""What makes a running server of the parts: settings, processes, logging."""
