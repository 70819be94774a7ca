"""What an event takes on disk and in the write-ahead log."""
