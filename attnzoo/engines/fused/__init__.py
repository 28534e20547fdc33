"""Softmax over listed tiles as one kernel of a device, in the place of the programs that XLA makes of `streaming`."""
