"""The forms in which data travel between stages, and their readers."""
