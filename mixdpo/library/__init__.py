"""Preferences of your own: training from them, text from the policy, its experts as models of transformers."""
