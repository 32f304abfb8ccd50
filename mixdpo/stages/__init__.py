"""What the workflow calls: one module for each stage."""
