"""The command line: it parses, calls and prints. Nothing heavy is imported to parse a line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from benchmarks import __version__
from benchmarks.child_processes import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated
from benchmarks.cli.distillation_commands import distill_app
from benchmarks.cli.regression_commands import add_commands
from benchmarks.config.options import (
    AccuracyArguments,
    DataArguments,
    ModelArguments,
    OutputArguments,
    ScaleArguments,
    TimingArguments,
)
from benchmarks.debugging import debugging, show_traceback
from mobilesam.errors import BenchError, DataError, UsageError

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
_DEFAULT_MODELS = ModelArguments()
_DEFAULT_DATA = DataArguments()
_DEFAULT_ACCURACY = AccuracyArguments()
_DEFAULT_OUTPUT = OutputArguments()
_DEFAULT_SCALE = ScaleArguments()
_DEFAULT_TIMING = TimingArguments()

app = App(
    name="mobilesam-bench",
    help="Benchmarks for promptable segmentation: MobileSAM, SAM and FastSAM side by side.",
    version=__version__,
    default_parameter=Parameter(negative=()),
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)
weights_app = App(name="weights", help="List, fetch and verify published weights.")
data_app = App(name="data", help="Make datasets.")
app.command(weights_app)
app.command(data_app)
app.command(distill_app)
add_commands(app)


@app.command
def run(
    *,
    timing: TimingArguments = _DEFAULT_TIMING,
    models: ModelArguments = _DEFAULT_MODELS,
    data: AccuracyArguments = _DEFAULT_ACCURACY,
    output: OutputArguments = _DEFAULT_OUTPUT,
) -> int:
    """Measure everything: parameters, latency and accuracy of every model."""
    from benchmarks.cli.commands import measure

    return measure.run(timing, models, data, output)


@app.command
def params(
    *, models: ModelArguments = _DEFAULT_MODELS, output: OutputArguments = _DEFAULT_OUTPUT
) -> int:
    """Count parameters, FLOPs and bytes by component."""
    from benchmarks.cli.commands import measure

    return measure.params(models, output)


@app.command
def latency(
    *,
    timing: TimingArguments = _DEFAULT_TIMING,
    models: ModelArguments = _DEFAULT_MODELS,
    output: OutputArguments = _DEFAULT_OUTPUT,
) -> int:
    """Time every phase of every model, in fresh processes."""
    from benchmarks.cli.commands import measure

    return measure.latency(timing, models, output)


@app.command
def miou(
    *,
    models: ModelArguments = _DEFAULT_MODELS,
    data: AccuracyArguments = _DEFAULT_ACCURACY,
    scale: ScaleArguments = _DEFAULT_SCALE,
    output: OutputArguments = _DEFAULT_OUTPUT,
    rescore: Annotated[
        tuple[Path, ...],
        Parameter(help="Score stored predictions (a file, or a run's folder) without a model."),
    ] = (),
) -> int:
    """Measure mean IoU under named protocols, against ground truth or a teacher's masks."""
    if rescore:
        from benchmarks.cli.commands import rescore as again

        again.refuse_others(models, data, scale)

        return again.rescore(rescore, data, output)
    from benchmarks.cli.commands import measure

    return measure.miou(models, data, output, scale)


@app.command
def everything(
    *,
    models: ModelArguments = _DEFAULT_MODELS,
    data: DataArguments = _DEFAULT_DATA,
    output: OutputArguments = _DEFAULT_OUTPUT,
    scale: ScaleArguments = _DEFAULT_SCALE,
) -> int:
    """Segment everything: average recall at 10, 100 and 1000 masks, and the time it takes."""
    from benchmarks.cli.commands import measure

    return measure.everything(models, data, output, scale)


@app.command
def paper(
    *,
    run: Annotated[
        tuple[Path, ...],
        Parameter(help="Judge by the record of a run; repeatable. Measures nothing."),
    ] = (),
    teacher: Annotated[
        str, Parameter(help="The model that claims about agreement are judged against.")
    ] = "sam-vit-h",
    profile: Annotated[str, Parameter(help="quick, standard or full.")] = "quick",
    models: ModelArguments = _DEFAULT_MODELS,
    data: AccuracyArguments = _DEFAULT_ACCURACY,
    output: OutputArguments = _DEFAULT_OUTPUT,
) -> int:
    """Measure what the published claims need, and give each of them a verdict."""
    from benchmarks.cli.commands import paper as ledger

    return ledger.paper(profile, models, data, output, runs=run, teacher=teacher)


@app.command
def figures(
    *,
    image: Annotated[tuple[Path, ...], Parameter(help="A picture of yours; repeatable.")] = (),
    point: Annotated[
        tuple[str, ...], Parameter(metavar="X,Y", help="One for each --image; else the centre.")
    ] = (),
    box: Annotated[
        tuple[str, ...], Parameter(metavar="X0,Y0,X1,Y1", help="One for each --image.")
    ] = (),
    photo: Annotated[
        tuple[str, ...], Parameter(help="A public-domain photo of scikit-image, such as astronaut.")
    ] = (),
    kinds: Annotated[str, Parameter(help="point, box, everything, by commas.")] = "point,box",
    trained_only: Annotated[
        bool, Parameter(help="Leave out named models without weights.")
    ] = False,
    svg: Annotated[bool, Parameter(help="Write SVG beside PNG.")] = False,
    models: ModelArguments = _DEFAULT_MODELS,
    data: DataArguments = _DEFAULT_DATA,
    output: OutputArguments = _DEFAULT_OUTPUT,
) -> int:
    """Draw the masks of all models side by side, as the paper's Figures 4, 5 and 6 do."""
    from benchmarks.cli.commands import figures as drawing

    pictures = drawing.PictureArguments(
        image, point, box, photo, kinds, trained_only=trained_only, svg=svg
    )
    return drawing.figures(models, data, pictures, output)


@app.command
def report(
    *runs: Annotated[Path, Parameter(help="Folder of a run, or a folder that holds such folders.")],
    out: Annotated[Path, Parameter(help="File to write.")] = Path("report.html"),
    images: Annotated[
        Path | None, Parameter(help="COCO, SA-1B: folder of the images, for the gallery.")
    ] = None,
    cases: Annotated[
        int | None, Parameter(help="Worst, median and best prompts of a model in the gallery.")
    ] = None,
    failures_first: Annotated[bool, Parameter(help="The gallery begins with failures.")] = False,
    quiet: Annotated[bool, Parameter(help="Say only what is wrong.")] = False,
) -> int:
    """Write one HTML file from the records of runs: it opens from disk, without a network."""
    from benchmarks.cli.commands import report as page

    return page.report(runs, out, images, cases, failures_first=failures_first, quiet=quiet)


@app.command(name="models")
def models_(*, output: OutputArguments = _DEFAULT_OUTPUT) -> int:
    """List the models, and whether their weights are here."""
    from benchmarks.cli.commands import inspection

    return inspection.models(output)


@app.command
def doctor(*, output: OutputArguments = _DEFAULT_OUTPUT) -> int:
    """Describe this machine, what is installed and what is missing, and what to do about it."""
    from benchmarks.cli.commands import inspection

    return inspection.doctor(output)


@app.command
def predict(
    image: Path,
    /,
    *,
    model: Annotated[str, Parameter(help="Name of one model.")],
    point: Annotated[
        tuple[str, ...],
        Parameter(metavar="X,Y[,0|1]", help="A point in pixels, 0 for background; repeatable."),
    ] = (),
    box: Annotated[str | None, Parameter(metavar="X0,Y0,X1,Y1", help="A box in pixels.")] = None,
    everything: Annotated[bool, Parameter(help="All objects instead, without a prompt.")] = False,
    objects: Annotated[bool, Parameter(help="All objects in the boxes of a detector.")] = False,
    boxes_from: Annotated[
        str | None, Parameter(metavar="MODEL", help="That detector; fastsam-s unless told.")
    ] = None,
    out: Annotated[Path, Parameter(help="Picture to write.")] = Path("overlay.png"),
    weights: Annotated[tuple[str, ...], Parameter(metavar="NAME=PATH", help="Local weights.")] = (),
    offline: bool = False,
    trust: bool = False,
    device: str = _DEFAULT_MODELS.device,
    max_pixels: Annotated[int, Parameter(help="Larger images are refused.")] = (
        _DEFAULT_DATA.max_pixels
    ),
    json: bool = False,
) -> int:
    """Segment one object of one image, or all of them, and draw the masks over it."""
    arguments = ModelArguments(
        models=model, weights=weights, offline=offline, trust=trust, device=device
    )
    objects = objects or boxes_from is not None
    if everything or objects:
        from benchmarks.cli.commands import predict_all

        if point or box is not None or (everything and objects):
            raise UsageError("give --point and --box, or --everything, or --objects alone")
        detector = (boxes_from or predict_all.DEFAULT_DETECTOR) if objects else None
        return predict_all.predict_all(image, arguments, detector, out, json, max_pixels)
    from benchmarks.cli.commands import prediction

    return prediction.predict(image, arguments, point, box, out, json, max_pixels)


@app.command
def export(
    out: Path,
    /,
    *,
    to: Annotated[str, Parameter(help="onnx or openvino.")],
    int8: Annotated[bool, Parameter(help="ONNX: quantised files as well.")] = False,
    weights: Annotated[tuple[str, ...], Parameter(metavar="NAME=PATH", help="Local weights.")] = (),
    offline: bool = False,
    trust: bool = False,
    json: bool = False,
) -> int:
    """Write MobileSAM for ONNX Runtime or OpenVINO, kept if it agrees with torch (not so int8)."""
    from benchmarks.cli.commands import export as exporting

    arguments = ModelArguments(
        models=exporting.EXPORTABLE, weights=weights, offline=offline, trust=trust
    )
    return exporting.export(arguments, to, out, int8=int8, as_json=json)


@weights_app.command(name="list")
def weights_list(*, output: OutputArguments = _DEFAULT_OUTPUT) -> int:
    """List the published weights, and which of them are here."""
    from benchmarks.cli.commands import weights

    return weights.list_all(output)


@weights_app.command(name="fetch")
def weights_fetch(
    *names: str, force: Annotated[bool, Parameter(help="Fetch again.")] = False
) -> int:
    """Fetch published weights by name or wildcard into the cache, verified."""
    from benchmarks.cli.commands import weights

    return weights.fetch(names, force=force)


@weights_app.command(name="verify")
def weights_verify(*targets: str, output: OutputArguments = _DEFAULT_OUTPUT) -> int:
    """Read weights in full, by name or path, and compare them with what is published."""
    from benchmarks.cli.commands import weights

    return weights.verify(targets, output)


@data_app.command(name="make")
def data_make(
    out: Path,
    /,
    *,
    format: Annotated[str, Parameter(help="coco or sa1b.")] = "coco",  # noqa: A002
    n: Annotated[int, Parameter(help="Scenes to render.")] = 20,
    seed: int = 0,
    tar: Annotated[bool, Parameter(help="SA-1B: write tar shards.")] = False,
) -> int:
    """Render synthetic scenes with exact masks into a folder, in COCO's or SA-1B's format."""
    from benchmarks.cli.commands import data

    return data.make(out, format, n, seed, tar=tar)


@data_app.command(name="boxes")
def data_boxes(annotations: Path, out: Path, /) -> int:
    """Write a COCO annotation file's own boxes as a detector's results file, for detector-box."""
    from benchmarks.cli.commands import data

    return data.boxes(annotations, out)


@app.meta.default
def _command(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    debug: Annotated[bool, Parameter(help="Show the traceback of whatever fails.")] = False,
) -> int:
    """Runs one command, with the options that all commands have."""
    with debugging(wanted=debug):
        return _exit_code(list(tokens))


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 1 something failed, 2 usage."""
    try:
        code = app.meta(
            arguments, exit_on_error=False, print_error=True, result_action="return_value"
        )
    except CycloptsError:
        return EXIT_USAGE
    return code if isinstance(code, int) else EXIT_DONE


def _exit_code(tokens: list[str]) -> int:
    try:
        code = app(tokens, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        return EXIT_USAGE
    except UsageError as error:
        return _complain(error, EXIT_USAGE)
    except BenchError as error:
        return _complain(error, EXIT_FAILED)
    except BrokenPipeError:
        # Whoever read our output has seen enough; there is nobody left to tell.
        sys.stderr.close()
        return EXIT_FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        failed = DataError(f"{where}{error.strerror or error}")
        failed.__cause__ = error
        return _complain(failed, EXIT_FAILED)
    except KeyboardInterrupt as error:
        sys.stderr.write("\ninterrupted; what was finished is kept\n")
        return EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED
    return code if isinstance(code, int) else EXIT_DONE


def _complain(error: BenchError, code: int) -> int:
    show_traceback(error)
    sys.stderr.write(f"error: {error}\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
