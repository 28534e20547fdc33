"""What the page says of numbers that several experiments have."""

MACHINE = "Times and memory are those of one machine; ratios carry over better than seconds."
SMALL = "The models are small and briefly trained: they show that each learns, not how far it can."
