"""Authentication (by UNIX socket, token, certificate or plugin) and authorization of clients."""
