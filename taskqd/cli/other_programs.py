"""The commands of other job queues, for hints to people who type them out of habit."""

EQUIVALENTS = {
    # pueue
    "add": "submit",
    "kill": "cancel ID",
    "clean": "remove --status COMPLETED,FAILED,CANCELLED",
    "restart": "retry ID",
    "start": "continue ID`, `taskq release ID`, or `taskq resume",
    "stash": "hold ID",
    "enqueue": "release ID",
    "parallel": "slots N` or `taskq set-queue QUEUE --slots N",
    "group": "queues` or `taskq set-queue QUEUE --slots N",
    "switch": "set ID --priority N",
    "stop": "cancel ID` for a job, `taskq pause` for a queue, `taskq shutdown` for the daemon",
    # task-spooler, at, nq, Slurm, beanstalkd and shells
    "ls": "list",
    "jobs": "list",
    "queue": "queues",
    "tail": "follow ID",
    "cat": "output ID",
    "info": "show ID",
    "rm": "remove ID",
    "delete": "remove ID",
    "clear": "remove --status COMPLETED,FAILED,CANCELLED",
    "batch": "submit",
    "sbatch": "submit --script FILE",
    "srun": "run",
    "squeue": "list",
    "scancel": "cancel ID",
    "sinfo": "stats",
    "put": "submit",
    "cron": "schedule --cron 'M H D M W'",
    "exec": "run",
    "ping": "hello",
    "whoami": "hello",
    "version": "--version",
}
"""By another program's command: what follows the word ``taskq`` instead."""
