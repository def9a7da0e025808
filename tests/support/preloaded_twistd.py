"""twistd that has imported all of taskqd before it switches to a user who may not read the installation.

``python -m tests.support.preloaded_twistd --uid N --gid N … taskq …``
"""

import encodings.ascii
import encodings.idna
import encodings.latin_1  # noqa: F401 - imported to be there
import importlib
import pkgutil

from twisted.internet import reactor  # noqa: F401 - the same
from twisted.scripts.twistd import run

import taskqd

OPTIONAL = ("taskqd.server.tls", "taskqd.client.tls")
"""Modules that need packages which may not be installed."""


def preload() -> None:
    """Import every module of taskqd that a daemon may need."""
    for module in pkgutil.walk_packages(taskqd.__path__, "taskqd."):
        if not module.name.endswith("__main__") and module.name not in OPTIONAL:
            importlib.import_module(module.name)


if __name__ == "__main__":
    preload()
    run()
