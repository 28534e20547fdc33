"""What does a trained language model say next?

    python -m experiments.generate --checkpoint=runs/compare/accuracy --prompt='def '

Prints the prompt and what a model of bytes adds to it, one line a sample. Models are those that `experiments.accuracy`
has trained; of a folder of such runs the best causal one is taken. It takes seconds.
"""
