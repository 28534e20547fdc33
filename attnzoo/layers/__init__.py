"""What Flax layers do around attention; the layers are `attnzoo.nnx` and `attnzoo.linen`."""
