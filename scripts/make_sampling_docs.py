"""Draws docs/pictures: what each sampler makes of one and the same small distribution, by its plain definition."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "pictures"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support import sampling_definitions as plain  # noqa: E402

from pellucid.sampling import SamplingParams  # noqa: E402
from pellucid.tools.svg import AFTER, BEFORE, OTHER, SOFT, Svg  # noqa: E402

# What a model might say after "The sky is".
WORDS = {
    "blue": 0.34, "clear": 0.19, "grey": 0.12, "dark": 0.09, "falling": 0.065, "bright": 0.055, "cloudy": 0.045,
    "black": 0.035, "green": 0.025, "full": 0.018, "open": 0.010, "empty": 0.005, "a": 0.002,
}  # fmt: skip
LOGITS = np.log(np.array(list(WORDS.values()))).astype(np.float32)

Array = npt.NDArray[np.float64]


def bars(title: str, panels: Sequence[tuple[str, Array]], before: Array | None = None, notes: str = "") -> Svg:
    """A panel for each setting: grey what the model said, blue what is drawn from."""
    row, left, width, gap, top = 15, 58, 190, 18, 42
    picture = Svg(left + len(panels) * (width + gap), top + row * len(WORDS) + (26 if notes else 8), title)
    said = plain.softmax(LOGITS.astype(np.float64)) if before is None else before
    scale = (width - 40) / max(0.5, *(float(p.max()) for _, p in panels), float(said.max()))
    picture.text(4, 18, title, bold=True)
    for i, word in enumerate(WORDS):
        picture.text(left - 6, top + row * i + 11, word, anchor="end")
    for column, (label, after) in enumerate(panels):
        x = left + column * (width + gap)
        picture.text(x, 35, label, fill=SOFT)
        for i, (p, q) in enumerate(zip(said, after, strict=True)):
            y = top + row * i
            picture.rect(x, y, p * scale, row - 3, BEFORE)
            picture.rect(x, y + 3, q * scale, row - 9, AFTER)
            if q > 0:
                picture.text(x + max(p, q) * scale + 4, y + 11, _percent(float(q)), fill=SOFT)
    if notes:
        picture.text(left, top + row * len(WORDS) + 16, notes, fill=SOFT)
    return picture


def settings(title: str, *each: dict[str, Any], notes: str = "") -> Svg:
    panels = []
    for fields in each:
        label = ", ".join(f"{name} {value}" for name, value in fields.items())
        panels.append((label, plain.distribution(LOGITS, SamplingParams(**fields))))
    return bars(title, panels, notes=notes)


def curves(
    title: str,
    x_label: str,
    y_label: str,
    lines: Sequence[tuple[str, str, Sequence[tuple[float, float]]]],
    *,
    y_max: float,
    level: tuple[float, str] | None = None,
) -> Svg:
    """Lines of (label, colour, points) over axes that begin at 0."""
    left, top, width, height = 58, 42, 460, 170
    picture = Svg(left + width + 170, top + height + 44, title)
    x_max = max(x for _, _, points in lines for x, _ in points)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x / x_max * width, top + height - min(y, y_max) / y_max * height

    picture.text(4, 18, title, bold=True)
    picture.text(left, 35, y_label, fill=SOFT)
    for i in range(5):
        x, y = at(x_max * i / 4, y_max * i / 4)
        picture.line([(left, y), (left + width, y)], BEFORE, 1)
        picture.text(left - 6, y + 4, f"{y_max * i / 4:g}", anchor="end", fill=SOFT)
        picture.text(x, top + height + 16, f"{x_max * i / 4:g}", anchor="middle", fill=SOFT)
    picture.text(left + width / 2, top + height + 34, x_label, anchor="middle", fill=SOFT)
    if level is not None:
        picture.line([at(0, level[0]), at(x_max, level[0])], SOFT, 1, dash="4 3")
        picture.text(left + width + 8, at(0, level[0])[1] + 4, level[1], fill=SOFT)
    for i, (label, colour, points) in enumerate(lines):
        picture.line([at(x, y) for x, y in points if y <= y_max], colour)
        picture.line([(left + width + 12, top + 18 * i), (left + width + 32, top + 18 * i)], colour, 3)
        picture.text(left + width + 40, top + 18 * i + 4, label)
    return picture


def penalties() -> Svg:
    """After an answer in which `blue` was three times and `dark` once."""
    answer = [0, 0, 0, 3]
    panels = []
    for fields in ({"repetition_penalty": 1.5}, {"presence_penalty": 1.0}, {"frequency_penalty": 1.0}):
        x = plain.penalised(LOGITS.astype(np.float64), SamplingParams(**fields), [], answer)
        panels.append((" ".join(f"{name} {value}" for name, value in fields.items()), plain.softmax(x)))
    return bars("Penalties", panels, notes="The answer so far has “blue” three times and “dark” once.")


def xtc() -> Svg:
    x = LOGITS.astype(np.float64)
    cut = [(f"xtc_threshold {t}, when it acts", plain.softmax(plain.xtc(x, t))) for t in (0.1, 0.05)]
    return bars("Exclude top choices", [("when it does not act", plain.softmax(x)), *cut])


def order() -> Svg:
    each = [["temperature", "top_p"], ["top_p", "temperature"]]
    fields: dict[str, Any] = {"temperature": 2.0, "top_p": 0.8}
    panels = [
        (", ".join(names), plain.distribution(LOGITS, SamplingParams(samplers=names, **fields))) for names in each
    ]
    return bars("The order matters: temperature 2 and top_p 0.8", panels)


def dynamic_temperature() -> Svg:
    colours = {0.5: OTHER, 1.0: AFTER, 3.0: SOFT}
    share = np.linspace(0, 1, 41)
    lines = [
        (f"exponent {e:g}", colour, [(float(s), float(1 - 0.5 + 2 * 0.5 * s**e)) for s in share])
        for e, colour in colours.items()
    ]
    return curves(
        "Dynamic temperature: temperature 1, range 0.5", "entropy, relative to the largest possible", "temperature",
        lines, y_max=2.0,
    )  # fmt: skip


def dry() -> Svg:
    lengths = [float(n) for n in range(2, 13)]
    lines = [
        (f"base {base:g}", colour, [(n, 0.8 * base ** (n - 2)) for n in lengths])
        for base, colour in ((1.75, AFTER), (1.4, OTHER), (1.2, SOFT))
    ]
    title, y_label = "DRY: multiplier 0.8, allowed length 2", "taken off the logit of the token that would go on"
    return curves(title, "tokens repeated so far", y_label, lines, y_max=20.0)


def mirostat() -> Svg:
    """The mean surprise of what is drawn from rows whose certainty drifts, as a text's does."""
    tau, eta, steps, size = 4.0, 0.1, 400, 2000
    rng = np.random.default_rng(5)
    base = -np.log(np.arange(1, size + 1))
    sharpness = 1.3 - 0.25 * np.sin(np.arange(steps) / 50)
    found: dict[str, list[float]] = {"mirostat 2": [], "top_p 0.9": []}
    mu = 2 * tau
    for step in range(steps):
        x = base * sharpness[step]
        p = plain.softmax(x)
        for name, surprises in found.items():
            cut = plain.mirostat2(x, mu) if name == "mirostat 2" else plain.top_p(x, 0.9)
            token = int(np.searchsorted(np.cumsum(plain.softmax(cut)), rng.random(), side="right"))
            surprises.append(float(-np.log2(p[min(token, size - 1)])))
            if name == "mirostat 2":
                mu -= eta * (surprises[-1] - tau)
    colours = {"mirostat 2": AFTER, "top_p 0.9": OTHER}
    window = 40
    lines = [
        (name, colours[name], [(float(i), float(np.mean(s[i - window : i]))) for i in range(window, steps + 1)])
        for name, s in found.items()
    ]
    title = "Mirostat 2: tau 4, eta 0.1; a model that grows more and less certain"
    return curves(title, "token", "surprise in bits, mean of 40 tokens", lines, y_max=8.0, level=(tau, "tau"))


PICTURES: dict[str, Callable[[], Svg]] = {
    "temperature": lambda: settings("Temperature", {"temperature": 0.5}, {"temperature": 1.0}, {"temperature": 2.0}),
    "dynatemp": dynamic_temperature,
    "top_k": lambda: settings("The k most likely", {"top_k": 1}, {"top_k": 3}, {"top_k": 8}),
    "top_p": lambda: settings("Nucleus", {"top_p": 0.3}, {"top_p": 0.7}, {"top_p": 0.95}),
    "min_p": lambda: settings("At least min_p times the likeliest", {"min_p": 0.5}, {"min_p": 0.2}, {"min_p": 0.05}),
    "typical_p": lambda: settings("Locally typical", {"typical_p": 0.2}, {"typical_p": 0.5}, {"typical_p": 0.9}),
    "top_n_sigma": lambda: settings(
        "Within n deviations", {"top_n_sigma": 0.5}, {"top_n_sigma": 1.0}, {"top_n_sigma": 1.5}
    ),
    "xtc": xtc,
    "mirostat": mirostat,
    "penalties": penalties,
    "dry": dry,
    "samplers": order,
}


def render() -> dict[Path, str]:
    """Every picture's file and content."""
    return {FOLDER / f"{name}.svg": draw().render() for name, draw in PICTURES.items()}


def _percent(p: float) -> str:
    return f"{100 * p:.0f} %" if p >= 0.095 else f"{100 * p:.1f} %"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, content in render().items():
        path.write_text(content, encoding="utf-8")
