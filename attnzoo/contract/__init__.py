"""What a kernel says of itself, and what it is handed."""
