"""What Stream-VLM is told before the first frame, in each of the three evaluation modes."""

from __future__ import annotations

from collections.abc import Sequence

_COACH = "You are an expert fitness coaching AI"
_TASK = "You assess their performance, count repetitions, and proactively provide feedback."

WINDOWS_PROMPT = (
    f"{_COACH} assisting a user with their workout and coaching them as they exercise. {_TASK} "
    "Please also specify whenever you identify a transition between exercises.\n"
)
"""Of `full_workout_sliding_window`, which names no exercise."""


def single_exercise_prompt(exercise: str) -> str:
    """Returns the prompt of `single_exercise`."""
    return f"{_COACH} who coaches users as they exercise. {_TASK} The user should be doing {exercise}."


def full_workout_prompt(exercises: Sequence[str]) -> str:
    """Returns the prompt of `full_workout`."""
    numbered = "; ".join(f"{number}) {name}" for number, name in enumerate(exercises, start=1))
    return (
        f"{_COACH} guiding a user through a workout and coaching them as they exercise. {_TASK}\n"
        f"Guide the user through the following exercises: {numbered}.\n"
        "Each exercise should be done for 30 seconds."
    )
