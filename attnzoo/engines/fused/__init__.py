"""Softmax over listed tiles, and recurrences over chunks, as one kernel of a device in the place of XLA's programs."""
