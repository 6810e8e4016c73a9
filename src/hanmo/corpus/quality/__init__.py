"""Which documents are worth keeping: language, rules by language, a trained classifier, perplexity; see `judge`."""
