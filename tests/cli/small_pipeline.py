"""A small real KFP pipeline with the shapes of ours: an output folder, a numbered task, a nested loop, an exit handler.

`mode` says what `train` does in its second stage: ok, user (the input is wrong), crash (no word), sleep (for long).
"""

from pathlib import Path
from typing import List  # noqa: UP035 - KFP reads this spelling

from kfp import compiler, dsl

IMAGE = "python:3.11"


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare_data(text: str, dataset: dsl.Output[dsl.Dataset]):
    import os
    from pathlib import Path

    from nvembed.core.progress import note, track

    os.environ["NVEMBED_TASK"] = "prepare_data"
    for _ in track(range(3), "reading"):
        pass
    note(f"held out {len(text)} texts")
    Path(dataset.path).mkdir(parents=True)
    (Path(dataset.path) / "text.txt").write_text(text)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(name: str, mode: str, dataset: dsl.Input[dsl.Dataset], adapter: dsl.Output[dsl.Model]):
    import os
    import sys
    import time
    from pathlib import Path

    from nvembed.core.lifeline import tie_to_parent
    from nvembed.core.progress import emit

    os.environ["NVEMBED_TASK"] = f"train_{name}"
    tie_to_parent()
    emit("progress", label="steps", done=1, total=9, text="loss 0.5")
    print(f"training {name}")
    if name == "stage2" and mode == "user":
        emit("error", text="learning_rate: too high; lower it", user=True)
        sys.exit(1)
    if name == "stage2" and mode == "crash":
        emit("error", text="ValueError: no such tensor", user=False)
        raise ValueError("no such tensor")
    if name == "stage2" and mode == "silent":
        os._exit(9)
    if name == "stage2" and mode == "sleep":
        Path(os.environ["NVEMBED_STATE"]).mkdir(parents=True, exist_ok=True)
        beat = Path(os.environ["NVEMBED_STATE"]) / f"beat-{os.getpid()}"
        for count in range(600):
            beat.write_text(str(count))
            time.sleep(0.1)
    Path(adapter.path).mkdir(parents=True)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(candidate: str, adapter: dsl.Input[dsl.Model], results: dsl.Output[dsl.Dataset]):
    from pathlib import Path

    Path(results.path).mkdir(parents=True)
    (Path(results.path) / "name.txt").write_text(candidate)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def compare_models(
    results: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    comparison: dsl.Output[dsl.Artifact],
    registered: dsl.OutputPath(str),
):
    import json
    from pathlib import Path

    Path(comparison.path).mkdir(parents=True)
    names = [(Path(one.path) / "name.txt").read_text() for one in results]
    (Path(comparison.path) / "table.md").write_text("| model |\n|---|\n" + "".join(f"| {name} |\n" for name in names))
    Path(registered).write_text(json.dumps({"name": "small", "version": 3, "aliases": ["champion"]}))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register_model(registered: str) -> str:
    return registered


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def finalize_run(final: dsl.PipelineTaskFinalStatus):
    print("closing", final.state)


@dsl.pipeline
def evaluate_all(candidates: list, adapter: dsl.Input[dsl.Model]) -> List[dsl.Dataset]:  # noqa: UP006
    with dsl.ParallelFor(candidates) as candidate:
        task = evaluate(candidate=candidate, adapter=adapter)
    return dsl.Collected(task.outputs["results"])


@dsl.pipeline(name="small")
def small(recipe: str = "laptop", overrides: str = "ok", image: str = IMAGE):
    closing = finalize_run().set_caching_options(False)
    with dsl.ExitHandler(closing):
        data = prepare_data(text=recipe)
        first = train(name="stage1", mode="ok", dataset=data.output)
        second = train(name="stage2", mode=overrides, dataset=data.output).after(first).set_retry(3, "60s")
        results = evaluate_all(candidates=["base", "stage2"], adapter=second.output)
        compared = compare_models(results=results.output).set_caching_options(False)
        register_model(registered=compared.outputs["registered"]).set_caching_options(False)


def compile_small(path: Path) -> Path:
    """Write the compiled pipeline to `path`."""
    compiler.Compiler().compile(small, str(path))
    return path
