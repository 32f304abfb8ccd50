"""The data and models a run starts from."""
