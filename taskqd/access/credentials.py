"""The credentials under the name that they had up to version 0.5; see ``taskqd.auth.credentials``."""

from taskqd.auth.credentials import Certificate, ICertificate, IPeer, IToken, Peer, Token

__all__ = ["Certificate", "ICertificate", "IPeer", "IToken", "Peer", "Token"]
