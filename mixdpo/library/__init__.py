"""Preferences of your own: train a policy on them, generate text from it, export its experts to transformers."""
