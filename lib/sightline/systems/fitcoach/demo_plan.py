"""What happens in the demo's workouts: exercises, repetitions, mistakes, and what the coach says when.

Every feedback follows from what can be seen: a correction comes about 1.5 s after a mistake starts, praise as
long after it has been mended, a count with praise when the second and fourth repetition of a bout without
mistake ends. When a bout begins and how fast it is differs, so the clock alone tells little.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from sightline.errors import InputError
from sightline.systems.fitcoach.demo_motion import EXERCISES, Exercise, Pose, blend, standing

CORRECTIONS = {
    "leaning": "Lift your chest, keep your back straight.",
    "one arm": "Use both of your arms!",
    "hips high": "Bring your hips down.",
}
MENDED = "Much better, keep it up!"
PRAISE = "That is {count}, great form!"
FIRST, NEXT, END = "First up are {name}!", "Moving on to {name}!", "And that is the end of the workout. Well done!"

COUNTED = (2, 4)
_LEAD_IN = 1.4  # least seconds from the coach's announcement to the first repetition
_LEAST_ACTIVE = 5.5  # least seconds of a bout that are exercise: time for two feedbacks
_DELAY = (1.4, 1.7)  # seconds after which the coach has seen that something is wrong, or mended
_ANNOUNCED, _SHOWN = 1.3, 1.2  # seconds that a transition and a feedback stay on screen
_APART = 1.7  # least seconds between the starts of two feedbacks
_RAMP = 0.25  # seconds in which a mistake grows to its full size
_TAIL = 1.2  # seconds of video after the last exercise


@dataclass(frozen=True)
class Feedback:
    """One thing the coach says.

    Attributes:
        start: Seconds from the first frame.
        shown: Seconds that it stays on screen.
        text: What is said.
        transition: Whether it announces an exercise or ends the workout.
    """

    start: float
    shown: float
    text: str
    transition: bool = False


@dataclass(frozen=True)
class Bout:
    """One exercise as it is done in one workout; all times in seconds from the workout's first frame.

    Attributes:
        exercise: Which exercise.
        start: When it is announced.
        end: When the next one is announced.
        repetitions: Start of every repetition, and the end of the last.
        mistake: Name of the mistake, or None for a clean bout.
        wrong: First and last-but-one index into `repetitions` between which the mistake is made.
        yaw: Radians the camera stands to the figure's left.
    """

    exercise: Exercise
    start: float
    end: float
    repetitions: tuple[float, ...]
    mistake: str | None
    wrong: tuple[int, int]
    yaw: float

    def pose(self, time: float) -> Pose:
        """Returns the figure's pose at `time`, which is not before `start`."""
        first = self.repetitions[0]
        if time < first:
            return self.exercise.pose(0.0, 0, {})
        index = min(bisect_right(self.repetitions, time), len(self.repetitions) - 1) - 1
        begin, finish = self.repetitions[index], self.repetitions[index + 1]
        phase = min((time - begin) / (finish - begin), 1.0)
        return self.exercise.pose(phase, index, self._strength(time))

    def _strength(self, time: float) -> dict[str, float]:
        if self.mistake is None:
            return {}
        begin, finish = self.repetitions[self.wrong[0]], self.repetitions[self.wrong[1]]
        rising, falling = (time - begin) / _RAMP, (finish - time) / _RAMP + 1
        return {self.mistake: float(np.clip(min(rising, falling), 0.0, 1.0))}


@dataclass(frozen=True)
class Workout:
    """A whole demo workout.

    Attributes:
        number: Number that names the video file.
        bouts: The exercises in order.
        feedbacks: Everything said, in order of time, none overlapping.
        duration: Seconds from the first to the last frame.
    """

    number: int
    bouts: tuple[Bout, ...]
    feedbacks: tuple[Feedback, ...]
    duration: float

    def scene(self, time: float) -> tuple[Pose, float, tuple[float, float]]:
        """Returns pose, camera yaw and the point the camera aims at, at `time` seconds."""
        last = self.bouts[-1]
        if time >= last.end:
            share = min((time - last.end) / (0.8 * _TAIL), 1.0)
            return blend(last.pose(last.end), standing(), share), last.yaw, last.exercise.middle
        index = max(i for i, bout in enumerate(self.bouts) if time >= bout.start or i == 0)
        bout = self.bouts[index]
        share = float(np.clip((time - bout.start) / (_LEAD_IN - 0.3), 0.0, 1.0))
        if share >= 1.0:
            return bout.pose(time), bout.yaw, bout.exercise.middle
        before = self.bouts[index - 1] if index else None
        pose = before.pose(before.end) if before else standing()
        yaw, middle = (before.yaw, before.exercise.middle) if before else (bout.yaw, bout.exercise.middle)
        aim = tuple((1 - share) * old + share * new for old, new in zip(middle, bout.exercise.middle, strict=True))
        return blend(pose, bout.pose(time), share), (1 - share) * yaw + share * bout.yaw, (aim[0], aim[1])


def plan_workouts(
    seed: int, test_workouts: int, train_workouts: int, exercises_each: int, exercise_seconds: float
) -> tuple[list[Workout], list[Workout]]:
    """Plans the workouts of both splits.

    Every exercise is dealt about equally often, with its mistake and without. Numbers alternate between up to
    145 (stored rotated) and above; no number is used twice.

    Args:
        seed: Decides everything.
        test_workouts: Workouts of the split "test".
        train_workouts: Workouts of the split "train".
        exercises_each: Exercises per workout.
        exercise_seconds: Length of one exercise, at least 7.

    Returns:
        Test and train workouts, each in order of number.

    Raises:
        InputError: A size makes no workout or more than there are numbers.
    """
    total = test_workouts + train_workouts
    if not (1 <= exercises_each <= len(EXERCISES) and exercise_seconds >= 7 and 0 < total <= 140):
        raise InputError(
            "this demo cannot be planned",
            field="workouts, exercises_each, exercise_seconds",
            mend=f"ask for 1..140 workouts of 1..{len(EXERCISES)} exercises of at least 7 s",
        )
    generator = np.random.default_rng([seed, 1])
    numbers = np.empty(total, dtype=np.int64)
    numbers[0::2] = generator.choice(np.arange(1, 146), len(numbers[0::2]), replace=False)
    numbers[1::2] = generator.choice(np.arange(146, 224), len(numbers[1::2]), replace=False)
    splits: list[list[Workout]] = []
    position = 0
    for split, size in enumerate((test_workouts, train_workouts)):
        dealer = _Dealer(np.random.default_rng([seed, 2, split]))
        workouts = []
        for number in numbers[position : position + size]:
            workouts.append(_plan_workout(seed, int(number), dealer.deal(exercises_each), exercise_seconds))
        splits.append(sorted(workouts, key=lambda workout: workout.number))
        position += size
    return splits[0], splits[1]


class _Dealer:
    """Deals different exercises to a workout, those that came least often first, half of them with their mistake."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._dealt = np.zeros(len(EXERCISES), dtype=np.int64)
        self._mistaken: dict[int, list[bool]] = {}

    def deal(self, count: int) -> list[tuple[Exercise, bool]]:
        order = self._generator.permutation(len(EXERCISES))
        chosen = order[np.argsort(self._dealt[order], kind="stable")][:count]
        self._dealt[chosen] += 1
        return [(EXERCISES[index], self._next(int(index))) for index in self._generator.permutation(chosen)]

    def _next(self, index: int) -> bool:
        left = self._mistaken.get(index) or self._generator.permutation([True, False]).tolist()
        self._mistaken[index] = left[1:]
        return bool(left[0])


def _plan_workout(seed: int, number: int, deal: list[tuple[Exercise, bool]], exercise_seconds: float) -> Workout:
    generator = np.random.default_rng([seed, 3, number])
    bouts: list[Bout] = []
    said: list[Feedback] = []
    start = 0.12
    for position, (exercise, mistaken) in enumerate(deal):
        text = (NEXT if position else FIRST).format(name=exercise.name)
        said.append(Feedback(start, _ANNOUNCED, text, transition=True))
        bout, spoken = _plan_bout(generator, exercise, mistaken, start, start + exercise_seconds)
        bouts.append(bout)
        said.extend(spoken)
        start = bout.end
    said.append(Feedback(start, 0.75 * _TAIL, END, transition=True))
    return Workout(number, tuple(bouts), tuple(said), start + _TAIL)


def _plan_bout(
    generator: np.random.Generator, exercise: Exercise, mistaken: bool, start: float, end: float
) -> tuple[Bout, list[Feedback]]:
    period = generator.uniform(*exercise.period)
    # The figure waits until it begins: otherwise the clock alone would tell when to speak.
    needed = max(1.06 * COUNTED[0] * period + _SHOWN + 0.3, _LEAST_ACTIVE)
    earliest = start + _LEAD_IN
    onset = generator.uniform(earliest, max(earliest, end - needed))
    delay, reaction = generator.uniform(*_DELAY), generator.uniform(0.7, 1.1)
    heeded = generator.random() < 0.9
    times = [onset]
    last: int | None = None
    while times[-1] < end:
        if mistaken and heeded and last is None and times[-1] >= onset + delay + reaction:
            last = len(times) - 1
        times.append(times[-1] + period * generator.uniform(0.95, 1.05))
    never = len(times) - 1
    wrong = (0, never if last is None else last) if mistaken else (never, never)
    yaw = exercise.yaw + generator.uniform(-0.08, 0.08)
    bout = Bout(exercise, start, end, tuple(times), exercise.mistake if mistaken else None, wrong, yaw)
    return bout, _comment(generator, bout, delay)


def _comment(generator: np.random.Generator, bout: Bout, delay: float) -> list[Feedback]:
    """Returns what the coach says during a bout; the correction has the first claim on the time."""
    times = bout.repetitions
    said: list[Feedback] = []

    def say(moment: float, text: str) -> None:
        free = all(abs(moment - other.start) >= _APART for other in said)
        if free and bout.start + _ANNOUNCED + 0.3 <= moment <= bout.end - _SHOWN - 0.1:
            said.append(Feedback(moment, _SHOWN, text))

    wrong_from, wrong_to = bout.wrong
    if bout.mistake is not None:
        say(times[wrong_from] + delay, CORRECTIONS[bout.mistake])
        if times[wrong_to] < bout.end:
            say(times[wrong_to] + generator.uniform(*_DELAY), MENDED)
    for count in COUNTED:
        if count < len(times) and count <= wrong_from:
            say(times[count] + 0.1, PRAISE.format(count=count))
    return sorted(said, key=lambda feedback: feedback.start)


def coach_texts() -> list[str]:
    """Returns everything the demo's coach may say, in a fixed order."""
    names = [exercise.name for exercise in EXERCISES]
    return [
        *(pattern.format(name=name) for pattern in (FIRST, NEXT) for name in names),
        *CORRECTIONS.values(),
        *(PRAISE.format(count=count) for count in COUNTED),
        MENDED,
        END,
    ]
