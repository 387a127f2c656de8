"""Texts: reading them, their vocabulary, and the tokens that a model trains on."""
