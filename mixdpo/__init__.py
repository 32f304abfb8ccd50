"""Mix- and MoE-DPO: the method, the stages of its replication, and their audit trail."""
