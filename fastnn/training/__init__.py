"""What stands around the training step: the loop of `fit`, its inputs, Ctrl-C, progress and diagnosis."""
