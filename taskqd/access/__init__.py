"""Who is at the other end of a connection, by twisted.cred: a user of this machine, a token, a certificate.

``Access`` is all that the protocol sees of it. Behind it a Portal asks checkers, which know credentials, and
a Realm, which makes principals of what they found; ``registry`` has the tokens as the file has them now,
``plugins`` an operator's own checkers, ``throttle`` whoever fails too often.
"""

from taskqd.access.access import Access, make_access
from taskqd.access.principal import IPrincipal, Principal, user_name

__all__ = ["Access", "IPrincipal", "Principal", "make_access", "user_name"]
