"""What every stage is made of: how it starts, publishes, records and fails."""
