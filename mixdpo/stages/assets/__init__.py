"""The data and models that a run starts from."""
