"""What reads do to deliveries."""
