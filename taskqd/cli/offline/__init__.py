"""Commands that read or change a state directory without its daemon; imported only when they are called."""
