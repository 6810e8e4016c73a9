"""One set of weights that understands and generates: masked, causal and prefix language model by token types."""
