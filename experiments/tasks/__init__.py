"""Where data comes from: one generator a file, a pure function of seed, split and index."""
