"""Mix- and MoE-DPO: losses, policies, decoding and the training loop. Nothing here knows of runs or of their files."""
