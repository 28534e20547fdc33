"""What a caller meets: arguments are checked, refused by name, and made into one call."""
