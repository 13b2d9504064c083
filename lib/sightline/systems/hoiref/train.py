"""Training VLM4HOI: conversations about pictures in, trained weights in the model and a loss curve out.

The tower is frozen, as in the original, so that what it makes of a picture can be kept; LoRA and the projection
are trained unless `trainable` names more of the language model.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.errors import ConfigError, InputError
from sightline.llm.tokens import TextTokenizer
from sightline.systems.hoiref.annotations import TrainRecord
from sightline.systems.hoiref.dialogue import IGNORED, RowLimits, Turns, collate_turns, marks_of, turn_ids
from sightline.systems.hoiref.model.vlm4hoi import Vlm4Hoi
from sightline.systems.hoiref.pixels import tower_input
from sightline.systems.hoiref.predict import ReadPicture
from sightline.systems.hoiref.questions import HoiQaQuirks, join_conversation
from sightline.systems.hoiref.schedule import Schedule, Stage, check_schedule, draw_items
from sightline.training.loop import Durable, LoopSettings, TrainResult, Work, train_loop

log = logging.getLogger(__name__)
LORA_AND_PROJECTION = ("*.lora_A.weight", "*.lora_B.weight", "llama_proj.*")
_FROZEN = ("visual_encoder.", "ln_vision.")
_FEW = 10

RELEASED_LOOP = LoopSettings(
    epochs=None, max_steps=1, weight_decay=0.05, bias_decay=0.0, max_grad_norm=None, shuffle=False, seed=42
)
"""AdamW as the original runs it; steps and rate come from the schedule, the order from the stages."""


@dataclass(frozen=True)
class TrainSettings:
    """What is trained, on which mixture, and how.

    Attributes:
        loop: Batch size, decay, precision, seed; `max_steps`, rate and order are the schedule's and the stages'.
        schedule: Learning rate and number of steps.
        stages: Mixtures of the parts.
        quirks: How conversations are joined and cut.
        limits: Longest parts of a row.
        trainable: Patterns of parameter names (`*` matches anything).
        cache_mb: Memory for what the tower makes of pictures.
        damaged_share: Share of items that may be unusable (a picture that cannot be read, a conversation without
            answers) before the training stops; such an item teaches nothing and is named in the log.
        compat: Switches for impossible settings of the release; see `check_schedule`.
    """

    loop: LoopSettings = RELEASED_LOOP
    schedule: Schedule = field(default_factory=Schedule)
    stages: tuple[Stage, ...] = (Stage({"epic": 50.0, "ego4d": 50.0}),)
    quirks: HoiQaQuirks = field(default_factory=HoiQaQuirks)
    limits: RowLimits = field(default_factory=RowLimits)
    trainable: tuple[str, ...] = LORA_AND_PROJECTION
    cache_mb: int = 0
    damaged_share: float = 0.01
    compat: tuple[str, ...] = ()


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean next-token cross entropy over all targets of a batch, as the original's loss.

    Args:
        logits: float [B, N, vocabulary].
        labels: int64 [B, N]; -100 where nothing is learnt.
    """
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten().to(logits.device))


def item_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns one loss per conversation, [B]: the mean over its own targets, 0 without any.

    With one conversation per process and step, as released, their mean is the original's loss.
    """
    targets = labels[:, 1:].to(logits.device)
    each = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), targets, reduction="none", ignore_index=IGNORED)
    return each.sum(dim=1) / (targets != IGNORED).sum(dim=1).clamp_min(1)


def train(
    records: Mapping[str, Sequence[TrainRecord]],
    read_picture: ReadPicture,
    model: Vlm4Hoi,
    tokenizer: TextTokenizer,
    settings: TrainSettings,
    *,
    device: str = "cpu",
    processes: int = 1,
    durable: Durable | None = None,
    watch: Callable[[int, nn.Module], None] | None = None,
) -> TrainResult:
    """Trains a model in place; see `train_loop` for resuming and several processes.

    Args:
        records: Part -> its conversations.
        read_picture: A picture's path to its pixels.
        model: Loaded, on the device it shall train on.
        tokenizer: The LLaMA folder's.
        settings: What to train and how.
        processes: Number of processes of this training, which a step's items are dealt to.

    Raises:
        ConfigError: The schedule cannot train, a stage names an empty part, or a pattern no parameter.
        InputError: Too many items are damaged, or none is there.
        NonFiniteError: A loss or gradient is NaN or infinite.
        ResumableStop: SIGTERM or SIGUSR1 came.
    """
    check_schedule(settings.schedule, settings.compat)
    if not any(records.values()):
        raise InputError("the training split has no conversations", mend="give the training files")
    steps = settings.schedule.steps
    loop = replace(settings.loop, epochs=None, max_steps=steps, learning_rate=settings.schedule.init_lr, shuffle=False)
    count = steps * loop.batch_size * loop.accumulation * processes
    sizes = {part: len(rows) for part, rows in records.items()}
    drawn = [records[part][index] for part, index in draw_items(sizes, settings.stages, count, loop.seed)]
    trained = select_trainable(model, settings.trainable)
    log.info("training %d values for %d steps on %d conversations", trained, steps, sum(sizes.values()))
    items = _Items(drawn, read_picture, model, tokenizer, settings)
    work = Work(
        names=[str(record.image_id) for record in drawn],
        collate=items.batch,
        losses=lambda wrapped, batch: item_losses(
            wrapped(batch["ids"], batch["mask"], batch["visual"]), batch["labels"]
        ),
    )
    return train_loop(
        model, work, loop, device=device, durable=durable, watch=watch, factor=settings.schedule.factor,
        description=f"train on {device}",
    )  # fmt: skip


def select_trainable(model: nn.Module, patterns: Sequence[str]) -> int:
    """Lets exactly the parameters train whose names match a pattern, never the tower, and returns their values.

    Raises:
        ConfigError: A pattern matches no parameter outside the tower.
    """
    able = [name for name, _ in model.named_parameters() if not name.startswith(_FROZEN)]
    idle = [pattern for pattern in patterns if not fnmatch.filter(able, pattern)]
    if idle:
        raise ConfigError([f"training: {pattern!r} in `trainable` names no parameter" for pattern in idle])
    chosen = {name for pattern in patterns for name in fnmatch.filter(able, pattern)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


class _Items:
    """Turns positions of the drawn list into batches; keeps what the tower made of pictures while there is room."""

    def __init__(
        self,
        drawn: Sequence[TrainRecord],
        read_picture: ReadPicture,
        model: Vlm4Hoi,
        tokenizer: TextTokenizer,
        settings: TrainSettings,
    ) -> None:
        self.drawn, self.read, self.model = drawn, read_picture, model
        self.tokenizer, self.settings = tokenizer, settings
        self.marks = marks_of(tokenizer)
        self.tokens = model.config.vision.tokens
        self.room = settings.cache_mb << 20
        self.kept: dict[str, Tensor] = {}
        self.damaged: dict[str, str] = {}
        self.most_damaged = max(_FEW, int(settings.damaged_share * len(drawn)))

    def batch(self, positions: list[int]) -> dict[str, Any]:
        """Returns `ids`, `mask`, `labels` and `visual` of some items."""
        made = [self._item(self.drawn[position]) for position in positions]
        visual = torch.stack([one for _, one in made])
        return {**collate_turns([turns for turns, _ in made], self.marks), "visual": visual}

    def _item(self, record: TrainRecord) -> tuple[Turns, Tensor]:
        try:
            talk = join_conversation(record.image_id, record.turns, self.settings.quirks)
            return turn_ids(self.tokenizer, talk, self.tokens, self.settings.limits), self._visual(record.image)
        except InputError as error:
            self._note(f"{record.part} {record.image_id}", error)
        width = self.model.config.vision.width * 4
        prompt = [*[-1] * self.tokens, self.marks.bos]
        return Turns(prompt, [self.marks.eos], [IGNORED]), torch.zeros(self.tokens, width, device=self.model.device)

    def _note(self, name: str, error: InputError) -> None:
        if name not in self.damaged:
            self.damaged[name] = error.problem
            log.warning("%s teaches nothing: %s", name, error)
        if len(self.damaged) > self.most_damaged:
            raise InputError(
                f"{len(self.damaged)} conversations cannot be used, the last: {error.problem}",
                item=name, field="damaged_share", mend="mend the data, or allow a larger share",
            ) from error  # fmt: skip

    def _visual(self, image: str) -> Tensor:
        if image in self.kept:
            return self.kept[image]
        side = self.model.config.vision.image_size
        made = self.model.encode(torch.from_numpy(tower_input(self.read(image), side))[None])[0]
        size = made.numel() * made.element_size()
        if size <= self.room:
            self.room -= size
            self.kept[image] = made
        return made
