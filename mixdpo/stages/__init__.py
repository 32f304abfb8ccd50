"""What the workflow calls: one module a stage."""
