"""The parser of SCHEDULE."""

import pytest

from taskqd.errors import BadRequest, TooLarge
from taskqd.model.spec import Array, Spec
from taskqd.model.submission import RescheduleRequest, RunNowRequest, ScheduleRequest
from taskqd.protocol.schedule_requests import parse_schedule
from taskqd.protocol.submit import MAX_BLOCK_SIZE

SCHEDULED = [
    ("--every=1h echo hello  ", ScheduleRequest(command="echo hello  ", every=3600.0)),
    ("--every=1 true", ScheduleRequest(command="true", every=1.0)),
    (
        '--cron="0 3 * * 1-5" --overlap true',
        ScheduleRequest(command="true", cron="0 3 * * 1-5", overlap=True),
    ),
    ('--cron=" 0  3 * *\\tMON " true', ScheduleRequest(command="true", cron="0 3 * * MON")),
    ("--cron=@daily true", ScheduleRequest(command="true", cron="@daily")),
    (
        '--queue=q --every=1m --label="a b" --env=A="\\xff" --array=1-3 --retries=2 true',
        ScheduleRequest(
            command="true",
            spec=Spec(
                queue="q",
                label="a b",
                env_base64={"A": b"\xff"},
                array=Array(1, 3),
                retries=2,
            ),
            every=60.0,
        ),
    ),
    ("--every=1 --script=9 ", ScheduleRequest(command="", spec=Spec(script=9), every=1.0)),
    (
        '--every=1 --script=9 --stdin=0 --secret=B=1 --secret=A="" a  b',
        ScheduleRequest(command="a  b", spec=Spec(script=9, stdin=0, secrets=("A", "B")), every=1.0),
    ),
]
NOT_SCHEDULED = [
    ("true", "expected either --every=<duration> or --cron="),
    ('--every=1h --cron="* * * * *" true', "expected either --every=<duration> or --cron="),
    ("--every=1h", "the command is missing"),
    ("--every=1h  --  ", "the command is missing"),
    ("--every=0.5 true", "--every: expected a duration of at least 1 s"),
    ("--every=often true", "--every: expected a duration"),
    ("--cron=hourly true", "--cron: expected the 5 fields of a cron expression"),
    ('--cron="0 0 * * * *" true', "--cron: expected the 5 fields of a cron expression"),
    ('--cron="60 0 * * *" true', "--cron: expected"),
    ('--cron="0 0 31 2 *" true', "--cron: "),
    ("--every=1h --overlap=1 true", "--overlap: takes no value"),
    ("--every=1h --key=k true", "--key is not an option of SCHEDULE: each of its jobs"),
    ("--every=1h --stdin=5", "the command is missing"),
    ("--every=1h --script=x", "--script: expected"),
    ("--every=1h --secret=A=1 --env=A=2 true", "A is given by --env and by --secret"),
    ("--every=1h --delay=5 true", "--delay is not an option of SCHEDULE: --every or --cron says when"),
    ("--every=1h --at=5 true", "--at is not an option of SCHEDULE: --every or --cron says when"),
    ("--every=1h --interactive true", "--interactive is not an option of SCHEDULE: it needs a user"),
    ("--set=1 --interactive true", "--interactive is not an option of SCHEDULE: it needs a user"),
    ("--every=1h --hold true", "--hold is not an option of SCHEDULE: --every or --cron says when"),
    ("--every=1h --after-any=5 true", "--after-any is not an option of SCHEDULE: its jobs come after"),
    ("--every=1h --after-label=x true", "--after-label is not an option of SCHEDULE: its jobs come after"),
    ("--set=1 --after-any-key=x true", "--after-any-key is not an option of SCHEDULE: its jobs come after"),
    (
        "--every=1h --environment=5 true",
        "--environment is not an option of SCHEDULE: its jobs run long after",
    ),
    ("--set=3 --environment=5", "--environment is not an option of SCHEDULE: its jobs run long after"),
    ("--every=1h --bogus true", "--bogus is not an option of SCHEDULE; HELP SCHEDULE lists"),
]


@pytest.mark.parametrize("text, scheduling", SCHEDULED)
def test_parse_schedule_returns_the_request(text: str, scheduling: ScheduleRequest) -> None:
    assert parse_schedule(text) == scheduling


@pytest.mark.parametrize("text, part", NOT_SCHEDULED)
def test_parse_schedule_refuses_invalid_text(text: str, part: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_schedule(text)
    assert part in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_parse_schedule_takes_a_zone() -> None:
    request = parse_schedule('--cron="0 4 * * *" --tz=Europe/Berlin x')
    assert isinstance(request, ScheduleRequest)
    assert request.spec.tz == "Europe/Berlin"


def test_run_now_names_a_schedule_and_nothing_else() -> None:
    assert parse_schedule("--run-now=3") == RunNowRequest(schedule=3)
    for text in ("--run-now=3 true", "--run-now=3 --every=1h", "--run-now=3 --run-now=4"):
        with pytest.raises(BadRequest, match="--run-now is given alone"):
            parse_schedule(text)
    for text in ("--run-now=0", "--run-now=x", "--run-now"):
        with pytest.raises(BadRequest, match="--run-now"):
            parse_schedule(text)


CHANGES = [
    ("--set=3 ./run  x", RescheduleRequest(schedule=3, command="./run  x")),
    ("--set=3 --every=1m", RescheduleRequest(schedule=3, every=60.0)),
    ("--cron=@daily --set=3", RescheduleRequest(schedule=3, cron="@daily")),
    ("--set=3 --overlap", RescheduleRequest(schedule=3, overlap=True)),
    ("--set=3 --overlap=false", RescheduleRequest(schedule=3, overlap=False)),
    (
        '--set=3 --timeout=none --expires=none --array=none --unless="" --label="" --notify-fail=false',
        RescheduleRequest(
            schedule=3,
            values={
                **dict.fromkeys(("timeout", "expires", "array", "unless", "label")),
                "notify_fail": False,
            },
        ),
    ),
    (
        "--set=3 --merge=false --stdout=none --stderr=/log",
        RescheduleRequest(schedule=3, values={"merge": False, "stdout": None, "stderr": "/log"}),
    ),
    (
        r'--set=3 --env=A=1 --env=B="\xff" --cwd="/\xff"',
        RescheduleRequest(
            schedule=3,
            values={"env": {"A": "1"}, "env_base64": {"B": b"\xff"}, "cwd_base64": b"/\xff"},
        ),
    ),
    (
        "--set=3 --script=9 --stdin=0 --secret=B=1 --secret=A=2",
        RescheduleRequest(schedule=3, values={"script": 9, "stdin": 0, "secrets": ("A", "B")}),
    ),
]


@pytest.mark.parametrize("text, request_", CHANGES)
def test_set_names_a_schedule_and_what_changes(text: str, request_: RescheduleRequest) -> None:
    assert parse_schedule(text) == request_


@pytest.mark.parametrize(
    "text, part",
    [
        ("--set=3", "expected what to change"),
        ("--set=3 --every=1h --cron=@daily", "--every and --cron cannot be given together"),
        ("--set=3 --overlap=maybe", "--overlap: expected true or false"),
        ("--set=3 --script=none", "--script: expected"),
        ("--set=3 --secret=A=1 --env=A=1", "A is given by --env and by --secret"),
        ("--set=0 true", "--set"),
        ("--set=3 --run-now=3", "--run-now is given alone"),
    ],
)
def test_set_of_a_schedule_refuses_invalid_text(text: str, part: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_schedule(text)
    assert part in str(refusal.value)


@pytest.mark.parametrize("when", ["--every=1h", "--set=3"])
def test_block_that_is_skipped_but_too_large_is_refused(when: str) -> None:
    for name in ("script", "stdin"):
        with pytest.raises(TooLarge, match=f"--{name}=16777217 is refused"):
            parse_schedule(f"{when} --{name}={MAX_BLOCK_SIZE + 1} true")
