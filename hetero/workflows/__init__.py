"""What the commands do, composed of the other rooms; torch is imported inside functions."""
