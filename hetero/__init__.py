"""hetero: visual search across devices, with a large gallery model and small query models in one embedding space."""

__version__ = "0.1.0"
