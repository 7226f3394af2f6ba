"""The log of a run: metrics, completions, answers and tokens as JSON Lines, and boards, by one
rank."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from gkdplan.runtime.boards import Board
from gkdplan.vocab import Phase, Source


class MetricsLog:
    """Appends a line a record and flushes it, so that a killed run keeps every finished step.

    Opened after `start_step`, it first drops what an earlier attempt logged behind that step (all
    of it for step 0), so that no step is logged twice. Where `enabled` is false nothing is opened
    or written: a run has one log, whatever the number of its ranks.
    """

    def __init__(
        self, run_dir: Path, boards: Sequence[Board], start_step: int, *, enabled: bool
    ) -> None:
        self._metrics: TextIO | None = None
        self._completions: TextIO | None = None
        self._tokens: TextIO | None = None
        self._answers: TextIO | None = None
        self._boards = boards
        if not enabled:
            return
        self._metrics = _reopen(run_dir / "metrics.jsonl", start_step)
        self._completions = _reopen(run_dir / "completions.jsonl", start_step)
        self._tokens = _reopen(run_dir / "tokens.jsonl", start_step)
        self._answers = _reopen(run_dir / "answers.jsonl", start_step)

    def log_step(
        self,
        *,
        step: int,
        loss: float,
        lr: float,
        grad_norm: float,
        source: Source,
        num_tokens: int,
        completion_tokens_mean: float,
        time_s: Mapping[Phase, float],
        peak_bytes: Mapping[Phase, int],
        planned_peak_bytes: Mapping[Phase, int],
        load_balance: float | None = None,
    ) -> None:
        """One training step; `loss` is the mean over its `num_tokens` response tokens. A
        `load_balance` is 1 where every expert of a layer has an equal share of the tokens."""
        balance = {} if load_balance is None else {"load_balance": load_balance}
        _write(
            self._metrics,
            {
                "step": step,
                "loss": loss,
                "lr": lr,
                "grad_norm": grad_norm,
                **balance,
                "source": source,
                "num_tokens": num_tokens,
                "completion_tokens_mean": completion_tokens_mean,
                "time_s": dict(time_s),
                "peak_bytes": dict(peak_bytes),
                "planned_peak_bytes": dict(planned_peak_bytes),
            },
        )
        self._plot(step, "train", {"loss": loss, "lr": lr, "grad_norm": grad_norm, **balance})
        self._plot(step, "train/loss_from", {source: loss})
        self._plot(step, "train", {"completion_tokens_mean": completion_tokens_mean})
        self._plot(step, "time_s", time_s)
        self._plot(step, "peak_bytes", peak_bytes)

    def log_eval(
        self,
        *,
        step: int,
        jsd: float,
        cross_entropy: float,
        top1_agreement: float,
        num_tokens: int,
    ) -> None:
        """Held-out means of the model as it is after `step`: nats a token, and of the agreement a
        share of the tokens."""
        means = {"jsd": jsd, "cross_entropy": cross_entropy, "top1_agreement": top1_agreement}
        _write(self._metrics, {"step": step, "eval": {**means, "num_tokens": num_tokens}})
        self._plot(step, "eval", means)

    def log_skipped(self, *, step: int, loss: float, grad_norm: float) -> None:
        """A step that changed nothing, as these are not finite: JSON has no number for them."""
        record = {"loss": str(loss), "grad_norm": str(grad_norm)}
        _write(self._metrics, {"step": step, "skipped": record})

    def log_warning(self, *, step: int, code: str, message: str) -> None:
        _write(self._metrics, {"step": step, "warning": {"code": code, "message": message}})

    def log_completion(
        self,
        *,
        step: int,
        source: Source,
        row: int,
        prompt: str,
        question: str,
        completion: str,
        num_tokens: int,
        weights_version: int,
    ) -> None:
        """One sampled response, `num_tokens` long; `question` is what the user said last, and
        `weights_version` how many updates the model had had that drew it."""
        _write(
            self._completions,
            {
                "step": step,
                "source": source,
                "row": row,
                "prompt": prompt,
                "question": question,
                "completion": completion,
                "num_tokens": num_tokens,
                "weights_version": weights_version,
            },
        )

    def log_tokens(
        self,
        *,
        step: int,
        source: Source,
        row: int,
        question: str,
        tokens: Sequence[str],
        divergences: Sequence[float],
        agree: Sequence[bool],
    ) -> None:
        """One response token by token, read by both models as they are after `step`: the divergence
        of each in nats, and whether both would write the same one there."""
        _write(
            self._tokens,
            {
                "step": step,
                "source": source,
                "row": row,
                "question": question,
                "tokens": list(tokens),
                "divergences": [float(f"{divergence:.6g}") for divergence in divergences],
                "agree": list(agree),
            },
        )

    def log_answer(
        self,
        *,
        step: int,
        row: int,
        question: str,
        expected: str,
        answer: str,
        num_tokens: int,
    ) -> None:
        """What the student as it is after `step` writes to a held-out prompt, `num_tokens` long,
        beside the row's own response."""
        _write(
            self._answers,
            {
                "step": step,
                "row": row,
                "question": question,
                "expected": expected,
                "answer": answer,
                "num_tokens": num_tokens,
            },
        )
        words = f"{question}\n\nexpected: {expected}\n\nstudent: {answer}"
        for board in self._boards:
            board.write(step, f"eval/row_{row}", words)

    def close(self) -> None:
        for sink in (self._metrics, self._completions, self._tokens, self._answers, *self._boards):
            if sink is not None:
                sink.close()

    def _plot(self, step: int, group: str, scalars: Mapping[Any, float]) -> None:
        for board in self._boards:
            for name, value in scalars.items():
                board.plot(step, f"{group}/{name}", value)


def _write(file: TextIO | None, record: Mapping[str, Any]) -> None:
    if file is not None:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.flush()


def _reopen(path: Path, start_step: int) -> TextIO:
    """Open for appending, without the lines behind `start_step` and a line that was cut short."""
    if path.exists():
        with path.open(encoding="utf-8", newline="\n") as old:
            kept = [line for line in old if start_step and _is_kept(line, start_step)]
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text("".join(kept), encoding="utf-8", newline="\n")
        os.replace(partial, path)
    return path.open("a", encoding="utf-8", newline="\n")


def _is_kept(line: str, start_step: int) -> bool:
    return line.endswith("\n") and json.loads(line)["step"] <= start_step
