"""How a run ended: what it learned, what both models write now, and where everything lies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gkdplan.report.wrapping import wrap
from gkdplan.units import format_bytes
from gkdplan.vocab import Phase, Role

_LABEL_WIDTH = 10
_LONGEST_SAMPLE = 600


def ending(
    summary: Mapping[str, Any],
    places: Mapping[str, Path],
    width: int = 80,
) -> str:
    """The last words of a run.

    `summary` has held_out_before and held_out_after ({"jsd", "cross_entropy", "top1_agreement"} or
    None), memory ({phase: {"planned_bytes", "measured_bytes"}}), skipped_steps, warnings ([{"step",
    "code", "message"}]) and samples ({"teacher" | "student": {"prompt", "completion"}}); `places`
    are labelled paths.
    """
    samples = _samples(summary.get("samples", {}), width)
    parts = [
        _held_out(summary),
        _memory(summary.get("memory", {})),
        _noted(summary, width),
        samples,
    ]
    lies = "\n".join(f"{label:<{_LABEL_WIDTH}}{path}" for label, path in places.items())
    return "\n\n".join(part for part in (*parts, lies) if part)


def _held_out(summary: Mapping[str, Any]) -> str:
    before, after = summary.get("held_out_before"), summary.get("held_out_after")
    if not before or not after:
        return ""
    lines = [f"{'held-out, nats a token':<24}{'before':>8}  {'after':>8}"]
    for name, key in (("JSD", "jsd"), ("cross-entropy", "cross_entropy")):
        change = f"  {after[key] / before[key] - 1:+.0%}" if before[key] else ""
        lines.append(f"{name:<24}{before[key]:>8.4f}  {after[key]:>8.4f}{change}")
    if "top1_agreement" in before and "top1_agreement" in after:
        was, now = before["top1_agreement"], after["top1_agreement"]
        lines.append(f"{'top-1 agreement':<24}{was:>8.1%}  {now:>8.1%}")
    return "\n".join(lines)


def _memory(memory: Mapping[str, Mapping[str, int]]) -> str:
    """The fullest rank's peak in each phase, as planned and as it was."""
    if not memory:
        return ""
    lines = [f"{'memory, fullest rank':<24}{'planned':>10}{'measured':>12}"]
    for phase in filter(memory.__contains__, map(str, Phase)):
        planned, measured = memory[phase]["planned_bytes"], memory[phase]["measured_bytes"]
        sizes = f"{format_bytes(planned):>10}{format_bytes(measured):>12}"
        lines.append(f"{phase:<24}{sizes}  {measured / planned - 1:+.1%}")
    return "\n".join(lines)


def _noted(summary: Mapping[str, Any], width: int) -> str:
    """Steps that changed nothing, and what was warned of."""
    lines = []
    if skipped := summary.get("skipped_steps"):
        steps = ", ".join(map(str, skipped[:8])) + (", ..." if len(skipped) > 8 else "")
        what = f"{len(skipped)} without a finite loss or gradient: {steps}"
        lines.append(wrap(f"{'skipped':<{_LABEL_WIDTH}}", what, width))
    for warned in summary.get("warnings", []):
        what = f"step {warned['step']}: {warned['code']}, {warned['message']}"
        lines.append(wrap(f"{'warning':<{_LABEL_WIDTH}}", what, width))
    return "\n".join(lines)


def _samples(samples: Mapping[str, Mapping[str, str]], width: int) -> str:
    """One prompt, and what each model answers."""
    if not samples:
        return ""
    prompt = next(iter(samples.values()))["prompt"]
    texts = {"prompt": prompt} | {
        str(role): samples[role]["completion"]
        for role in (Role.TEACHER, Role.STUDENT)
        if role in samples
    }
    return "\n".join(
        wrap(f"{label:<{_LABEL_WIDTH}}", _printable(text)[:_LONGEST_SAMPLE], width)
        for label, text in texts.items()
    )


def _printable(text: str) -> str:
    """What a model wrote, as one line without what would steer the terminal."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
