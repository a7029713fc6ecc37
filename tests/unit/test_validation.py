"""Validation, the checkpoints that it chooses, early stop, and exports of a checkpoint."""
