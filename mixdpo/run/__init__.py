"""The configuration, the graph of artifacts, and the audit of a run."""
