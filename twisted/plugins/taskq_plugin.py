"""Tells ``twistd`` that there is a ``taskq``; the daemon itself is loaded only when it is asked for."""

from twisted.application.service import ServiceMaker

taskq = ServiceMaker("taskq", "taskqd.daemon.tap", "A durable queue for shell commands", "taskq")
