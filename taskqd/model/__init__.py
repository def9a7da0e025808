"""Jobs, and how one event changes a job."""
