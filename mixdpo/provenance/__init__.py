"""Artifacts that appear whole or not at all, and the record of what made them."""
