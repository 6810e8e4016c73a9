"""The rules that clean a document, by what they work on; `hanmo.corpus.clean` puts them together."""
