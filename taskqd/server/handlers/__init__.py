"""The handlers of the verbs: a request value in, its reply out."""
