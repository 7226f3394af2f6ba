"""A finished file of samples, in a few lines."""

from collections.abc import Mapping

from gkdplan.report.words import plural

_LABEL_WIDTH = 10


def samples_written(file: str, counts: Mapping[str, int]) -> str:
    """Where they lie and how many they are; `counts` has num_rows, num_tokens and num_cut."""
    rows, tokens = counts["num_rows"], counts["num_tokens"]
    mean = f"{tokens / rows:.1f} a row" if rows else "no row"
    lines = {
        "samples": file,
        "rows": f"{rows:,}",
        "tokens": f"{tokens:,}, {mean}",
        "cut": f"{plural(counts['num_cut'], 'response')} at `generation.max_completion_length`",
    }
    return "\n".join(f"{label:<{_LABEL_WIDTH}}{text}" for label, text in lines.items())
