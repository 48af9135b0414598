"""Bugs that this field has shipped, planted one at a time into a copy of the package: each must turn at least one test red.

`python tests/seeded_bugs.py [NAME …]` runs them all, or some, and exits 1 if one survives.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("inpo/world/assets", "docs")
"""Read by tests, and not copied: without them some would be red whatever is planted."""


@dataclass(frozen=True)
class Bug:
    """`before` stands exactly once in `file` and becomes `after`; `tests` are the ones that should see it."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


NOISING, OBJECTIVES, DDIM = "tests/unit/test_noising.py", "tests/unit/objectives", "tests/unit/test_ddim.py"
CHOOSING, DUELS, ROWS = "tests/unit/comparing/test_choosing.py", "tests/unit/comparing/test_runs.py", "tests/unit/test_methods.py"
BUGS = (
    Bug("the first example's t for the whole batch", "inpo/schedule.py",
        "self.at(t[:count] - back[k[:count] - j])", "self.at(t[:1].expand(count) - back[k[:count] - j])", (NOISING,)),
    Bug("the missing one half", "inpo/objectives/pairwise.py", "return -(beta / 2) * (", "return -beta * (", (OBJECTIVES,)),
    Bug("sum for mean", "inpo/points.py", "self.residual.square().mean(", "self.residual.square().sum(", (OBJECTIVES,)),
    Bug("swapped labels in the loss", "inpo/objectives/pairwise.py",
        "-q * logsigmoid(u) - (1 - q) * logsigmoid(-u)", "-q * logsigmoid(-u) - (1 - q) * logsigmoid(u)", (OBJECTIVES,)),
    Bug("swapped labels in the data", "inpo/data/pairs.py", "swap=label == 0,", "swap=label != 0,", ("tests/unit/data/test_pairs.py",)),
    Bug("overshoot: the walk ends at the next level", "inpo/schedule.py",
        "self.at(t[:count] - back[k[:count] - j])",
        "self.at((t[:count] - back[k[:count] - j] + 50).clamp(max=self.length - 1))", (DDIM,)),
    Bug("cumulative products in half precision", "inpo/schedule.py",
        "(1 - table).sqrt().to(self.dtype)", "(1 - table.half()).sqrt().to(self.dtype)", ("tests/unit/test_schedule.py",)),
    Bug("winner and loser at different times", "inpo/noising.py",
        "grid.nodes(t, at[:, -1])",
        "grid.nodes((t - torch.arange(len(rows)) % 2).clamp(min=0), at[:, -1])", (NOISING,)),
    Bug("the reference in another dtype", "inpo/models/denoiser.py",
        "copy.deepcopy(self).eval()", "copy.deepcopy(self).eval().to(torch.bfloat16)",
        ("tests/unit/models/test_stable_diffusion.py",)),
    Bug("Diffusion-DPO without its shared noise", "inpo/noising.py",
        '"forward/win" if self.shared_noise else "forward/lose"', '"forward/lose"', (NOISING,)),
    Bug("noise added without shrinking the direction", "inpo/ddim.py",
        "StochasticStep((sigma_s**2 - omega_squared).clamp(min=0).sqrt()", "StochasticStep((sigma_s**2).sqrt()", (DDIM,)),
    Bug("the corrector asks at the source's time", "inpo/ddim.py",
        "self._slope(there, levels[1])", "self._slope(there, levels[0])", (DDIM,)),
    Bug("winners and losers under different prompts", "inpo/noising.py",
        "pairs.condition[rows], solver",
        "pairs.condition[[(row + i) % len(pairs) for i, row in enumerate(rows)]], solver", (NOISING,)),
    Bug("the wrong guidance formula", "inpo/ddim.py",
        "return unconditional + self.scale * (conditional", "return conditional + self.scale * (conditional", (DDIM,)),
    Bug("micro-batch means averaged, not pairs", "inpo/training/gradient.py",
        "backward(result.losses.sum() * share", "backward(result.losses.mean() * self.config.micro_batch_pairs * share",
        ("tests/invariants/test_gradient.py",)),
    Bug("the optimiser's state forgotten on resume", "inpo/training/optim.py",
        "        if entries[name]:\n", "        if entries[name] and not weights:\n", ("tests/unit/training",)),
    Bug("ties counted as losses", "inpo/evaluation/winrate.py",
        "<= tie_tolerance, 0.5,", "<= tie_tolerance, 0.0,", ("tests/unit/evaluation/test_winrate.py",)),
    Bug("the inverter is always the reference", "inpo/training/gradient.py",
        'if method.noising.inverter != "reference":', 'if method.noising.inverter is None:', ("tests/invariants",)),
    Bug("the reference keeps its adapters on", "inpo/models/lora.py",
        "layer._disable_adapters = True", "layer._disable_adapters = False", ("tests/unit/models/test_lora.py",)),
    Bug("adapters stay off after the reference was asked", "inpo/models/lora.py",
        "layer._disable_adapters = False", "layer._disable_adapters = True",
        ("tests/unit/models/test_lora.py", "tests/invariants/test_lora.py")),
    Bug("alpha forgotten in the saved adapters", "inpo/models/lora.py",
        "scale = lora.strength / lora.rank if portable else 1.0", "scale = 1.0",
        ("tests/unit/models/test_lora.py", "tests/end_to_end/test_lora.py")),
    Bug("SDXL's pooled embedding of the first tower", "inpo/models/encoder.py",
        "pooled = read[-1][1]", "pooled = read[0][1]", ("tests/unit/models",)),
    Bug("the last layer instead of the one before", "inpo/models/prompts.py",
        "answer.hidden_states[-1 - layer]", "answer.hidden_states[-1]", ("tests/unit/models",)),
    Bug("a flow's network shown t and not 1000 t", "inpo/schedule.py",
        "return t * FLOW_TIME_SCALE", "return t", ("tests/unit/models/test_stable_diffusion_3.py",)),
    Bug("the variance in the place of the noise", "inpo/models/pixart.py",
        "[:, : x_t.shape[1]]", "[:, x_t.shape[1] :]", ("tests/unit/models/test_pixart.py",)),
    Bug("the loss scale left in the gradient", "inpo/training/trainer.py",
        "1 / self.scale.scale", "1.0", ("tests/unit/training/test_scaling.py",)),
    Bug("gradients of processes not added up", "inpo/training/distributed.py",
        "gradient.copy_(total.view_as(gradient))", "total.view_as(gradient)", ("tests/invariants/test_gradient.py",)),
    Bug("the best step by the wrong direction", "inpo/training/watch.py",
        'sign = 1 if METRICS[self.metric] == "higher" else -1', "sign = 1", ("tests/unit/training/test_watch.py",)),
    Bug("a comparison's pictures from noise of their own", "inpo/comparing/make.py",
        "self.planned.seed if self.planned.experiment is None else 0", "0 if self.planned.experiment is None else self.planned.seed",
        (CHOOSING,)),
    Bug("the worst trial is chosen", "inpo/comparing/state.py",
        "return float(found.mean()) if", "return -float(found.mean()) if", (CHOOSING,)),
    Bug("the lead at equal forwards is the other one's", "inpo/comparing/duels.py",
        "a.at_forwards(spent), b.at_forwards(spent)", "b.at_forwards(spent), a.at_forwards(spent)", (DUELS,)),
    Bug("a step against the other one's end", "inpo/comparing/duels.py",
        '"steps", a, b, (step, *a.main), (step, *b.main)', '"steps", a, b, (step, *a.main), (b.steps[-1], *b.main)', (DUELS,)),
    Bug("InPO with the safeguard has none", "inpo/methods.py",
        "INPO.noising, INPO.objective, Safeguard()", "INPO.noising, INPO.objective", (ROWS,)),
    Bug("smoothed labels are not smoothed", "inpo/methods.py", "Dpo(beta=5000.0, label_smoothing=0.1)", "Dpo(beta=5000.0)", (ROWS,)),
    Bug("Inversion-DPO is InPO", "inpo/methods.py",
        "InversionStep(inversion_steps=80)", "Inversion(inversion_steps=80)", (ROWS,)),
    Bug("a card says nothing of what was measured", "inpo/results/result.py",
        '(self.path / SUMMARY, *sorted(self.path.glob(f"*/{SUMMARY}"))) if self.experiment else ()', "()",
        ("tests/end_to_end/test_push.py::test_what_was_measured_is_in_the_card",)),
    Bug("ties as halves for a loss that reads no label", "inpo/objectives/reference_free.py",
        "Needs(reference=False, ties=False)", "Needs(reference=False)", ("tests/unit/test_config.py",)),
    Bug("KTO's baseline below 0", "inpo/objectives/unpaired.py",
        "max(0.0, sum(gains) / len(gains))", "sum(gains) / len(gains)", (OBJECTIVES,)),
    Bug("DMPO's divergence the other way round", "inpo/objectives/pairwise.py",
        "to_q = log_p.exp() * (log_p - math.log1p(-self.alpha))\n"
        "        return to_q + log_other.exp() * (log_other - math.log(self.alpha))",
        "to_q = (1 - self.alpha) * (math.log1p(-self.alpha) - log_p)\n"
        "        return to_q + self.alpha * (math.log(self.alpha) - log_other)",
        (OBJECTIVES,)),
    Bug("SmPO's p for 2p - 1", "inpo/objectives/pairwise.py",
        "(2 * like_margin(preference, u) - 1) * u", "like_margin(preference, u) * u", (OBJECTIVES,)),
    Bug("the safeguard enlarges the loser's gradient", "inpo/objectives/safeguard.py", ".clamp(0, 1).where(", ".where(", (OBJECTIVES,)),
    Bug("a reward for growing worse", "inpo/points.py",
        "return self.ref_error - self.error", "return self.error - self.ref_error", ("tests/unit/test_implicit.py",)),
    Bug("the smallest singular vectors", "inpo/models/export/extract.py",
        "vectors[:, -rank:].flip(1)", "vectors[:, :rank].flip(1)", ("tests/unit/models/test_export.py",)),
    Bug("the target of v with the other sign", "inpo/ddim.py", "alpha * tau - sigma * x_0", "sigma * x_0 - alpha * tau", (DDIM,)),
    Bug("a reference for MaPO", "inpo/verbs/alignment.py",
        'model.reference() if needs.reference or experiment.method.noising.inverter == "reference" else None', "model.reference()",
        ("tests/end_to_end/test_methods.py::test_how_many_networks_a_run_holds",)),
)  # fmt: skip


def plant(bug: Bug, root: Path) -> None:
    """Changes the copy. Raises `ValueError` if the code has moved on and the bug no longer applies."""
    path = root / bug.file
    text = path.read_text(encoding="utf-8")
    if text.count(bug.before) != 1:
        raise ValueError(f"{bug.name!r}: found {text.count(bug.before)} times in {bug.file}: {bug.before!r}")
    path.write_text(text.replace(bug.before, bug.after), encoding="utf-8")


def is_caught(bug: Bug) -> bool:
    """Whether the tests are red on a copy with this bug. pytest's 1 is 'tests failed'; a copy that cannot be collected does not count."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("inpo", "tests", "pyproject.toml"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__", "assets"))
            else:
                shutil.copy(source, root / name)
        for name in LINKED:
            (root / name).symlink_to(ROOT / name)
        plant(bug, root)
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *bug.tests]
        return subprocess.run(command, cwd=root, capture_output=True, check=False).returncode == 1


def main(names: list[str]) -> int:
    """Runs the named bugs, or all."""
    chosen = [bug for bug in BUGS if not names or bug.name in names]
    survivors = 0
    for bug in chosen:
        caught = is_caught(bug)
        survivors += not caught
        print(f"{'caught  ' if caught else 'SURVIVED'} {bug.name}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} caught")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
