"""Commands that access a state directory directly, with the code of the daemon; imported on demand."""
