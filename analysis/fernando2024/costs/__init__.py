"""What an update costs: time and memory."""
