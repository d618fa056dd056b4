"""Opens a bundle for whoever runs it: its files checked against the manifest, and what a device is given of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit import manifest
from edgekit.artifact import file_digest
from edgekit.devices import ModelFile, Processor
from edgekit.errors import ArtifactError
from edgekit.manifest import Manifest

MAX_THREADS = 256
MAX_TOKENS = 1 << 20


@dataclass(frozen=True)
class Opened:
    """A bundle on disk whose program and tokenizer are whole.

    Attributes:
        folder: of the bundle.
        manifest: what it says of itself.
        model: the file that a CPU answers by.
        runtime: of the target, by its name.
        digests: sha256 of the files that devices load, by their paths.
        processor, threads: the target's.
    """

    folder: Path
    manifest: Manifest
    model: ModelFile
    runtime: str
    digests: Mapping[str, str]
    processor: Processor
    threads: int

    def files(self, accelerated: bool) -> dict[int, ModelFile]:
        """Returns what a device loads, by the longest row that each file takes; 0 stands for rows of any length."""
        if not accelerated:
            return {0: self.model}
        made = self.manifest.model
        named = {int(length): path for length, path in made.files.items()} or {0: made.path}
        return {
            length: dataclasses.replace(
                self.model, path=self.folder / path, sha256=self.digests[path], min_runtime="", by=self.runtime
            )
            for length, path in sorted(named.items())
        }


def open_bundle(folder: Path) -> Opened:
    """Reads a bundle and checks its model file and tokenizer against the manifest.

    Raises:
        ArtifactError: it is not a bundle, or a file is missing or not the one that was built.
    """
    item = manifest.read(folder)
    listed = {file.path: file.sha256 for file in item.files} | {item.model.path: item.model.sha256}
    loaded = {item.model.path, item.model.portable, *item.model.files.values()}
    if not loaded <= set(listed):
        raise ArtifactError(f"manifest.json: {min(loaded - set(listed))} is not among files; build the bundle again")
    for path, expected in (
        *((folder / name, listed[name]) for name in sorted(loaded)),
        (folder / item.tokenizer.path / "tokenizer.json", item.tokenizer.sha256),
    ):
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; build the bundle again")
        if file_digest(path) != expected:
            raise ArtifactError(f"{path} is not the file that was built: its sha256 differs from the manifest's")
    made = item.model
    if not 2 <= item.tokenizer.max_length <= MAX_TOKENS or not 0 <= item.tokenizer.pad_id < 1 << 31:
        raise ArtifactError(
            "manifest.json: tokenizer.max_length or pad_id is no number of tokens; build the bundle again"
        )
    lengths = list(made.files)
    if not all(length.isdecimal() for length in lengths) or (
        lengths and max(map(int, lengths)) < item.tokenizer.max_length
    ):
        raise ArtifactError("manifest.json: model.files does not hold the longest input; build the bundle again")
    runtime, options = _runtime(item)
    model = ModelFile(folder / made.portable, listed[made.portable], item.tokenizer.pad_id, made.min_runtime, options)
    return Opened(folder, item, model, runtime, listed, *_processor(item))


def _processor(item: Manifest) -> tuple[Processor, int]:
    """Returns processor and threads of a manifest's target: all that a measurement needs, whatever keys it has else.

    Raises:
        ArtifactError: they are not there.
    """
    section = item.target.get("device")
    section = section if isinstance(section, dict) else {}
    match [section.get(name) for name in ("arch", "cpu", "isa", "threads")]:
        case [str() as arch, str() as cpu, list() as isa, int() as threads] if 0 < threads <= MAX_THREADS:
            return Processor(arch, cpu, tuple(map(str, isa)), str(section.get("accelerator", ""))), threads
    raise ArtifactError(
        f"manifest.json: target.device lacks arch, cpu, isa, or threads from 1 to {MAX_THREADS}; build the bundle again"
    )


def _runtime(item: Manifest) -> tuple[str, dict[str, str]]:
    """Returns the runtime of a manifest's target and its options.

    Raises:
        ArtifactError: it has no name, or the options are no table of texts.
    """
    section = item.target.get("runtime")
    section = section if isinstance(section, dict) else {}
    name, options = section.get("name"), section.get("options", {})
    if not isinstance(name, str):
        raise ArtifactError("manifest.json: target.runtime.name is not there; build the bundle again")
    if not isinstance(options, dict) or not all(isinstance(value, str) for value in options.values()):
        raise ArtifactError("manifest.json: target.runtime.options must map names to texts; build the bundle again")
    return name, dict(options)
