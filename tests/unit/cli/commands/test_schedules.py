"""``taskq schedule``: requests for recurring submissions."""

from tests.fakes.daemon import replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.unit.cli.samples import PLAIN


def test_schedule_of_several_words_runs_the_program(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"SCHEDULE": b"OK 3\r\n"}))
    assert call("schedule", "--every", "1m", *PLAIN, "echo", "-n", "hi").code == 0
    assert daemon.lines[0].endswith(" exec echo -n hi")
    refusal = call("schedule", "--every", "1m", "printf", "a\nb")
    assert refusal.code == 1
    assert (
        "the command of a schedule must be a single line of UTF-8; let it run a script file" in refusal.stderr
    )


def test_schedule_sends_options_of_its_submissions(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"SCHEDULE": b"OK 3\r\n"}))
    words = ("schedule", *PLAIN, "--cron", "30 2 * * *", "--overlap", "--queue", "q", "--", "ls", "my file")
    assert call(*words) == (0, b"3\n", "")
    (line,) = daemon.lines
    options, _, command = line.partition(" ls ")
    assert command == "'my file'"
    assert options.startswith('SCHEDULE --cron="30 2 * * *" --overlap ')
    assert {"--queue=q", "--cwd=/", "--umask=022", "--env=PATH=/bin"} <= set(options.split(" "))
