"""What a job is, and how one event changes it."""
