"""Who is asking (a user of this machine, a token, a certificate) and what they may do."""
