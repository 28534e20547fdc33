"""A model for each task, kernel, positions, length, width, rate and seed: trained, tested, and drawn."""
