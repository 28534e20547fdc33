"""The few ways in which the arithmetic of attention is done. Nothing here knows a kernel by name."""
