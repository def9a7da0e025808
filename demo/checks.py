"""Compares results with the expected ones, and counts both."""

from tests.support import programs


class Unexpected(Exception):
    """The daemon did something unexpected, and the demo cannot continue."""


class Checks:
    """Counts expected results, and remembers wrong ones and skipped programs."""

    def __init__(self) -> None:
        self.passed = 0
        self.wrong: list[str] = []
        self.skipped: list[str] = []

    def equal(self, name: str, found: object, expected: object) -> None:
        """Compare ``found`` with ``expected``, and print a difference at once."""
        if found == expected:
            self.passed += 1
            return
        self.wrong.append(name)
        print(f"  WRONG: {name}: expected {expected!r}, found {found!r}")

    def can_run(self, program: str) -> bool:
        """Whether ``program`` is installed; print a line if it is not."""
        if programs.is_there(program):
            return True
        name = {"convert": "ImageMagick"}.get(program, program)
        self.skipped.append(name)
        print(f"  skipped: {name} is not installed (apt-get install {programs.PACKAGES[program]})")
        return False

    def conclusion(self) -> list[str]:
        """Return lines with the counts, the wrong results and the skipped programs."""
        lines = [f"{self.passed} results were as expected, {len(self.wrong)} were not."]
        lines += [f"WRONG: {name}" for name in self.wrong]
        if self.skipped:
            lines.append(f"Skipped, because not installed: {', '.join(self.skipped)}.")
        return lines
