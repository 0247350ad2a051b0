"""A script that runs exported files where vae_exp cannot be imported.

    python -P fresh_process.py FOLDER INPUTS.npz OUTPUTS.npz

`INPUTS.npz` has arrays `part/case/position`; `OUTPUTS.npz` gets `file/case/position`, or `file/0/name`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


def main(folder: Path, inputs_file: str, outputs_file: str) -> None:
    """Run every file on every input of its part."""
    sys.modules["vae_exp"] = None  # type: ignore[assignment]  # an import of it fails from here on
    import numpy as np

    outputs: dict[str, Any] = {}
    with np.load(inputs_file) as arrays:
        cases = sorted({tuple(name.split("/")[:2]) for name in arrays})
        for path in sorted(folder.iterdir()):
            if path.suffix == ".safetensors":
                from safetensors.numpy import load_file

                outputs |= {f"{path.name}/0/{name}": weight for name, weight in load_file(path).items()}
            if path.suffix not in _LOADERS:
                continue
            run = _LOADERS[path.suffix](path)
            for part, case in cases:
                if part == path.stem:
                    names = sorted(name for name in arrays if name.startswith(f"{part}/{case}/"))
                    results = run(*(arrays[name] for name in names))
                    outputs |= {f"{path.name}/{case}/{index}": result for index, result in enumerate(results)}
    np.savez(outputs_file, **outputs)


def _load_pt2(path: Path) -> Run:
    import torch

    module = torch.export.load(path).module()

    def run(*arrays: Any) -> list[Any]:
        outputs = module(*map(torch.from_numpy, arrays))
        return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return run


def _load_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


_LOADERS: dict[str, Callable[[Path], Run]] = {".pt2": _load_pt2, ".onnx": _load_onnx}

if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
