"""What each verb does: the values of a request in, its reply out."""
