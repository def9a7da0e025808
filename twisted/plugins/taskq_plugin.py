"""Tells ``twistd`` that there is a ``taskq``; the daemon itself is loaded only when it is asked for."""

from twisted.application.service import ServiceMaker

taskq = ServiceMaker("taskq", "taskqd.service", "A durable queue for shell commands", "taskq")
