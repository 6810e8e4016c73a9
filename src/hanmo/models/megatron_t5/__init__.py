"""Megatron's T5 (Randeng's structure): an encoder-decoder with learned positions and biases everywhere."""
