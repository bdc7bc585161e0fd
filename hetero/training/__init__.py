"""Training: the step, the loop that survives ``kill -9``, the gallery phase and the student phase."""
