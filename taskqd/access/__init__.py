"""The former place of ``taskqd.auth.credentials``, which operators' checker plugins of 0.5 import."""
