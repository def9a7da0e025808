"""Registers the plugin ``taskq`` with ``twistd``; the daemon is imported only when it is used."""

from twisted.application.service import ServiceMaker

taskq = ServiceMaker("taskq", "taskqd.daemon.tap", "A durable queue for shell commands", "taskq")
