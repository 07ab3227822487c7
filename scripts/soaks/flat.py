"""The rule by which a measured series is flat or grows."""

import random
import statistics
from dataclasses import dataclass


@dataclass
class Tolerance:
    """How much a series may grow during a run: a part of its first third, and an absolute amount on top of it."""
    part: float
    amount: float

    def of(self, values):
        return self.part * first_third(values) + self.amount


@dataclass
class Verdict:
    first: float  # median of the first third
    last: float  # median of the last third
    growth: float  # during the run, by the trend
    tolerance: float

    def grows(self):
        """Both are required: the trend ignores outliers, and the thirds ignore what happens only once in the middle."""
        return self.growth > self.tolerance and self.last - self.first > self.tolerance


def third(values):
    return max(len(values) // 3, 1)


def first_third(values):
    return statistics.median(values[:third(values)])


def slope(values):
    """The Theil-Sen estimator: the median of the slopes between all pairs, per interval. Up to 29 % of the values can
    be outliers without an effect."""
    pairs = [(later - earlier) / (end - begin) for begin, earlier in enumerate(values)
             for end, later in enumerate(values) if end > begin]
    return statistics.median(pairs)


def judge(values, tolerance):
    return Verdict(first_third(values), statistics.median(values[-third(values):]),
                   slope(values) * (len(values) - 1), tolerance.of(values))


def judge_beside(values, machine_values, tolerance):
    """Judges a latency by itself. Returns the verdict, and whether it also grows in relation to what the machine takes
    at the same time. Other programs slow down both."""
    ratios = [value / machine for value, machine in zip(values, machine_values)]
    return judge(values, tolerance), judge(ratios, Tolerance(tolerance.part, 0)).grows()


def prove_rule():
    """Applies the rule to series whose verdict is known. Prints them, and returns true if all verdicts are right."""
    rng = random.Random(1)
    tolerance = Tolerance(0.05, 2)
    noise = [rng.uniform(-1, 1) for _ in range(30)]
    series = (
        ("noise", [100 + value for value in noise], False),
        ("a single peak of ten times the value", [1_000 if n == 20 else 100 + value for n, value in enumerate(noise)],
         False),
        ("up and down, in five intervals", [100 + 20 * (n % 5) for n in range(30)], False),
        ("shrinking", [100 - n for n in range(30)], False),
        ("growth below the tolerance", [100 + 0.1 * n + value for n, value in enumerate(noise)], False),
        ("growth above the tolerance", [100 + 0.6 * n + value for n, value in enumerate(noise)], True),
        ("a step in the middle", [100 + 15 * (n >= 15) + value for n, value in enumerate(noise)], True),
        ("growth that slows down", [100 + 20 * (1 - 0.9 ** n) + value for n, value in enumerate(noise)], True),
        ("up and down, and growing", [100 + 20 * (n % 5) + 2 * n for n in range(30)], True),
    )
    growing = [100 + 2 * n + value for n, value in enumerate(noise)]
    steady = [100 - value for value in noise]
    beside = (("a latency that grows while the machine is steady", growing, steady, True),
              ("a latency that grows with the machine", growing, growing, False),
              ("a steady latency while the machine becomes faster", steady, growing[::-1], False))
    verdicts = [(name, judge(values, tolerance).grows(), expected) for name, values, expected in series]
    for name, values, machine_values, expected in beside:
        verdict, grows_beside = judge_beside(values, machine_values, tolerance)
        verdicts.append((name, verdict.grows() and grows_beside, expected))
    print("| series, 100 with a tolerance of 7 | expected | verdict |\n| --- | --- | --- |")
    right = True
    for name, grows, expected in verdicts:
        right = right and grows == expected
        words = ["grows" if is_true else "flat" for is_true in (expected, grows)]
        print(f"| {name} | {words[0]} | {words[1]}{'' if grows == expected else ' **not as expected**'} |")
    return right
