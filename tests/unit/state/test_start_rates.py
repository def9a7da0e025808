"""StartRates: how many starts count against a rate, and when the next one is allowed."""

from taskqd.model.rate import Rate, parse_rate
from taskqd.state.start_rates import StartRates


class Limited:
    """Start rates in which the queue `mail` has a rate that a test may change."""

    def __init__(self, text: str = "3/m") -> None:
        self.rate: Rate | None = parse_rate(text)
        self.rates = StartRates(lambda queue: self.rate if queue == "mail" else None)


def test_start_counts_for_one_period() -> None:
    rates = Limited().rates
    rates.set_time(10.0)
    for at in (0.0, 5.0, 10.0):
        rates.record("mail", at)
    assert (rates.used("mail"), rates.next_expiry("mail"), rates.opens_at("mail")) == (3, 60.0, 60.0)
    rates.set_time(59.9)
    assert rates.used("mail") == 3
    rates.set_time(60.0)
    assert (rates.used("mail"), rates.next_expiry("mail"), rates.opens_at("mail")) == (2, 65.0, 60.0)
    rates.set_time(70.0)
    assert (rates.used("mail"), rates.next_expiry("mail")) == (0, 130.0)


def test_start_that_is_being_recorded_counts_until_it_is_recorded_or_given_up() -> None:
    rates = Limited("2/m").rates
    rates.set_time(100.0)
    rates.begin("mail")
    rates.begin("mail")
    assert (rates.used("mail"), rates.next_expiry("mail"), rates.opens_at("mail")) == (2, 160.0, 160.0)
    rates.end("mail")
    rates.record("mail", 100.5)
    assert (rates.used("mail"), rates.opens_at("mail")) == (2, 160.5)
    rates.end("mail")
    assert (rates.used("mail"), rates.opens_at("mail")) == (1, 100.0)


def test_start_that_is_undone_does_not_count() -> None:
    rates = Limited().rates
    rates.set_time(0.0)
    rates.record("mail", 0.0)
    rates.undo("mail", 0.0)
    rates.undo("mail", 0.0)
    rates.undo("other", 0.0)
    assert rates.used("mail") == 0


def test_queue_without_a_rate_counts_nothing() -> None:
    limited = Limited()
    rates = limited.rates
    rates.set_time(5.0)
    rates.record("other", 5.0)
    assert (rates.used("other"), rates.next_expiry("other"), rates.opens_at("other")) == (0, 5.0, 5.0)
    rates.record("mail", 5.0)
    limited.rate = None
    assert rates.used("mail") == 0


def test_lower_rate_counts_the_earlier_starts() -> None:
    limited = Limited("3/m")
    rates = limited.rates
    rates.set_time(20.0)
    for at in (0.0, 10.0, 20.0):
        rates.record("mail", at)
    limited.rate = parse_rate("1/m")
    assert (rates.used("mail"), rates.opens_at("mail")) == (3, 80.0)


def test_start_of_the_past_is_not_after_now_although_the_clock_was_set_back() -> None:
    rates = Limited("1/m").rates
    rates.record("mail", 5000.0)
    rates.set_time(10.0)
    assert rates.opens_at("mail") == 70.0
