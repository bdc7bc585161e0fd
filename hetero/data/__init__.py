"""Data: readers that all return one ``Dataset``, samplers and the loader; none needs torch."""
