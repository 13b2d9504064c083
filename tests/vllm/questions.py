"""The chats that both backends are asked."""

from sightline.llm.base import Message, Request, Sampling

CONTINUATIONS = ("A", "B", "Great job")


def questions(max_new_tokens: int = 16) -> list[Request]:
    """Returns chats of different lengths with one beginning, and one that is too long for the model."""
    system = Message.of("system", "You compare what a coach said with the reference.")
    asked = [
        Request(str(n), (system, Message.of("user", "Lift both arms" + " and breathe" * n)), Sampling(max_new_tokens))
        for n in range(12)
    ]
    return [*asked, Request("long", (Message.of("user", "breathe " * 2000),), Sampling(max_new_tokens))]
