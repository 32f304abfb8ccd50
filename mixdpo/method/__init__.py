"""Mix- and MoE-DPO: losses, policies, decoding and the training loop. It knows no run and no file layout."""
