"""What several tests share: configurations, command lines, what runs leave, golden values."""
