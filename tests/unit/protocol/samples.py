"""A job and its usage for the tests of replies and documents."""

from typing import Any

from taskqd.model.job import Job, Usage
from taskqd.model.spec import Spec


def a_job(**known: Any) -> Job:
    """Return job 7 with other fields."""
    job = Job(id=7, command="true", spec=Spec(), owner="ann", submitted_at=1764000000.0)
    for name, value in known.items():
        setattr(job, name, value)
    return job


USED = Usage(1.5, 0.25, 4096)
