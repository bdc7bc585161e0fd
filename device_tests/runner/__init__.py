"""What executes a job on a device: ``run_job.py``, one file that is copied there. Nothing here imports it."""
