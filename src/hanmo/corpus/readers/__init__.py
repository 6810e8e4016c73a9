"""Readers, a module for each family of formats; `hanmo.corpus.formats` says which is which."""
