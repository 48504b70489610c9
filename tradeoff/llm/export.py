"""Export of a run, or of a checkpoint, to a folder that transformers or peft loads."""

from __future__ import annotations

from pathlib import Path

from tradeoff.errors import InputError
from tradeoff.files import check_writable
from tradeoff.llm import card, checkpoints, models, snapshots
from tradeoff.llm.config import ModelConfig


def export(
    run: str | Path,
    out: str | Path,
    checkpoint: int | None = None,
    *,
    merged: bool = False,
    precision: models.Precision = "fp32",
) -> Path:
    """Write the model of a run, which may be finished, stopped or diverged, to a new folder.

    Parameters
    ----------
    run
        Output folder of a run, or a checkpoint within it, such as
        ``runs/x/checkpoints/step-00000200``.
    out
        Folder to write, which must be absent or empty.
    checkpoint
        Number of updates of the checkpoint to export. None: the trained model, or the newest intact
        checkpoint if there is no trained model yet.
    merged
        Write a whole model, with adapters merged into its weights. Otherwise adapters are written,
        which name the model below them.
    precision
        That of the written weights: "fp32", or "bf16", which is half the size and rounds them.

    Returns
    -------
    Path
        `out`, with a model card. Adapters name the model below them, or have it in ``base/``.

    Raises
    ------
    InputError
        If `out` is not empty, there is no such checkpoint, it cannot be read, or there are no
        adapters to merge.
    """
    run, out = Path(run), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("the folder is not empty", field="out", value=str(out), remedy=_EMPTY)
    check_writable(out, field="out")
    if not run.is_dir():
        remedy = "Give the output folder of a run, or one of its checkpoints."
        raise InputError("there is no such folder", field="run", value=str(run), remedy=remedy)
    source = run if checkpoint is None else _checkpoint(run, checkpoint)
    # Weights are trained in float32; weights below adapters are only compared with their files.
    model, tokenizer = models.load(ModelConfig(path=str(source)))
    if merged:
        if not models.has_adapters(model):
            remedy = "Leave merged out, --merged: the model has all of its weights."
            raise InputError("there are no adapters to merge", field="merged", remedy=remedy)
        model = models.merged(model)
    weights = models.untied(model, dict(model.state_dict()))
    needed = sum(weight.nbytes for weight in models.rounded(weights, precision).values())
    check_writable(out, needed=needed, field="out")
    models.write(model, weights, tokenizer, out, _texts(source, merged), precision=precision)
    return out


def _texts(source: Path, merged: bool) -> dict[str, str]:
    """Card and settings of the exported policy."""
    if models.model_folder(source) != str(source):
        return card.texts(source, merged=merged)
    if (found := snapshots.checkpoint_of(str(source))) is None:
        return card.texts(source.parent, merged=merged) if source.name == models.MODEL else {}
    return card.texts(found.parent.parent, checkpoints.step_of(found), merged=merged)


_EMPTY = "Give a folder that is not there yet."


def _checkpoint(run: Path, step: int) -> Path:
    folder = run / snapshots.CHECKPOINTS
    if (place := checkpoints.named(folder, step)).is_dir():
        return place
    steps = [str(checkpoints.step_of(path)) for path in checkpoints.checkpoints(folder)]
    raise InputError(
        "the run has no such checkpoint",
        file=run,
        field="checkpoint",
        value=step,
        remedy=f"Use one of {', '.join(steps)}." if steps else "Give the folder of a run.",
    )
