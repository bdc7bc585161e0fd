"""The architecture family, its networks, costs and checkpoints."""
