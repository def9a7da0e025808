"""What was expected and what came."""

from tests.support import programs


class Unexpected(Exception):
    """The daemon did not do what the demo was sure of, and the demo cannot go on."""


class Checks:
    """Counts what was as expected, and remembers what was not."""

    def __init__(self) -> None:
        self.passed = 0
        self.wrong: list[str] = []
        self.skipped: list[str] = []

    def equal(self, what: str, found: object, expected: object) -> None:
        """Note whether ``found`` is what was expected; say so at once if it is not."""
        if found == expected:
            self.passed += 1
            return
        self.wrong.append(what)
        print(f"  WRONG: {what}: expected {expected!r}, found {found!r}")

    def can_run(self, program: str) -> bool:
        """Whether ``program`` is there; say so if it is not."""
        if programs.is_there(program):
            return True
        name = {"convert": "ImageMagick"}.get(program, program)
        self.skipped.append(name)
        print(f"  skipped: {name} is not installed (apt-get install {programs.PACKAGES[program]})")
        return False

    def conclusion(self) -> list[str]:
        """Return what was as expected, what was not and what was left out."""
        lines = [f"{self.passed} results were as expected, {len(self.wrong)} were not."]
        lines += [f"WRONG: {what}" for what in self.wrong]
        if self.skipped:
            lines.append(f"Left out, because not installed: {', '.join(self.skipped)}.")
        return lines
