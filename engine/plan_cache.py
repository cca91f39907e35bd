"""Plans on disk: building one takes minutes, and running one runs code.

A plan holds GPU code that the library runs as it is, so only what this user wrote and nobody changed is ever
handed to it: folder and files belong to the user and nobody else may write them, and a manifest holds the
plan's SHA-256. It guards against accidents and other users, not against programs of the same user.

A plan's place is named by what was asked for: model, library, GPU, precision, profiles. What may age, the
library's version and the driver's, stands in the manifest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from engine.asides import tell, warn
from engine.build import Built, Progressed, Recipe, build_plan
from engine.contract import EngineError, ModelInfo

Used = TypeVar("Used")


class PlanRefusedError(EngineError):
    """A plan that the library does not take; it is built anew."""


@dataclass(frozen=True)
class Key:
    """What a plan was built from and for.

    Attributes:
        onnx: SHA-256 of the ONNX file that was built, precision included.
        builder: the library, ``tensorrt`` or ``tensorrt_rtx``.
        gpu: its name and compute capability, or the latter alone for a machine that is not this one.
        recipe: profiles, precision and level, as text.
        version: the builder's.
        driver: the version of CUDA that the driver has; 0 for a machine that is not this one.
    """

    onnx: str
    builder: str
    gpu: str
    recipe: str
    version: str
    driver: int

    def slot(self) -> str:
        """Return the name of the plan's place, which the versions do not change."""
        asked = asdict(replace(self, version="", driver=0))
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def key_of(content: bytes, recipe: Recipe, trt: Any) -> Key:  # noqa: ANN401
    """Return the key of a plan, for the machine's first GPU or for the recipe's architecture.

    Raises:
        EngineError: if there is neither.
    """
    gpu, driver = f"sm_{recipe.gpu_arch}", 0
    if recipe.gpu_arch is None:
        from engine.cuda import find_gpu

        try:
            found = find_gpu()
        except EngineError as error:
            raise EngineError(f"{error}; --gpu-arch builds for another machine's") from None
        gpu, driver = found.name, found.driver
    digest = hashlib.sha256(content).hexdigest()
    return Key(digest, trt.__name__, gpu, json.dumps(asdict(recipe), sort_keys=True), trt.__version__, driver)


def cache_folder() -> Path:
    """Return the folder of plans, ``$XDG_CACHE_HOME/irstream/plans``, made if it was not there.

    Raises:
        EngineError: if it cannot be made, or others than this user may change what is in it.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "irstream" / "plans"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        for each in (folder.parent, folder):
            if fault := _foreign(each.stat()):
                raise EngineError(f"{each}: {fault}; a plan is code: set XDG_CACHE_HOME to a folder of your own")
    except OSError as error:
        raise EngineError(f"{folder}: {error.strerror}; set XDG_CACHE_HOME to a folder of your own") from None
    return folder


def read(folder: Path, key: Key) -> bytes | None:
    """Return a plan that is safe to run; None if there is none, with a line on stderr if there was one."""
    path = folder / f"{key.slot()}.plan"
    at = path.with_suffix(".json")
    try:
        manifest = json.loads(_read_own(at))
        at = path
        plan = _read_own(at)
    except FileNotFoundError:
        if path.exists():
            _warn(path, "it has no manifest")
        return None
    except (OSError, ValueError) as error:
        fault = getattr(error, "strerror", None) or str(error)
        _warn(path, fault if at == path else f"its manifest: {fault}")
        return None
    was = manifest if isinstance(manifest, dict) else {}
    for name, now in asdict(key).items():
        if was.get(name) != now:
            _warn(path, f"made for {name} {str(was.get(name))[:80]}, and here is {str(now)[:80]}")
            return None
    if was.get("bytes") != len(plan):
        _warn(path, f"{len(plan)} bytes, where {was.get('bytes')} were written")
        return None
    if was.get("sha256") != hashlib.sha256(plan).hexdigest():
        _warn(path, "it was changed since it was built")
        return None
    return plan


def keep(folder: Path, key: Key, plan: bytes) -> None:
    """Keep a plan; where that fails, a full disk for one, a line on stderr says so and no harm is done.

    A crash between plan and manifest leaves two that do not fit each other, which ``read`` sees.
    """
    path = folder / f"{key.slot()}.plan"
    manifest = {**asdict(key), "bytes": len(plan), "sha256": hashlib.sha256(plan).hexdigest()}
    try:
        _write(path, plan)
        _write(path.with_suffix(".json"), json.dumps(manifest, indent=2).encode())
    except OSError as error:
        warn(f"{path}: {error.strerror}; the plan is not kept and will be built again")


def load_or_build(folder: Path | None, key: Key, build: Callable[[], bytes], use: Callable[[bytes], Used]) -> Used:
    """Return what ``use`` makes of a plan, from the cache or built; one process builds and the others wait.

    Args:
        folder: of the cache; None to do without.
        key: the plan's.
        build: makes the plan.
        use: deserialises it.

    Raises:
        EngineError: what ``build`` raises, or ``use`` of a plan just built.
    """
    if folder is None:
        return use(build())
    with _alone(folder / f"{key.slot()}.lock"):
        plan = read(folder, key)
        if plan is not None:
            try:
                return use(plan)
            except PlanRefusedError as error:
                _warn(folder / f"{key.slot()}.plan", str(error))
        plan = build()
        keep(folder, key, plan)
        return use(plan)


def build_timed(
    folder: Path,
    key: Key,
    content: bytes,
    info: ModelInfo,
    recipe: Recipe,
    trt: Any,  # noqa: ANN401
    progress: Progressed | None = None,
) -> Built:
    """Build a plan with the timings of earlier builds on this GPU, and keep its own; see ``build_plan``."""
    about = json.dumps([key.builder, key.version, key.gpu, key.driver])
    path = folder / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.timings"
    try:
        timings = _read_own(path)
    except (OSError, ValueError):
        timings = b""
    built = build_plan(content, info, recipe, trt, timings, progress)
    if built.timings:
        with contextlib.suppress(OSError):  # the next build takes longer
            _write(path, built.timings)
    return built


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock, which the kernel lets go of with its process; without one where it cannot be made."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:  # a full disk: two may build, and both write whole files
        yield
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("waiting for another process that builds the same plan ...")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _read_own(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a file")
        if fault := _foreign(status):
            raise ValueError(fault)
        return file.read()


def _foreign(status: os.stat_result) -> str | None:
    if status.st_uid != os.getuid():
        return "it belongs to another user"
    return "others may write it" if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else None


def _write(path: Path, content: bytes) -> None:
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # of mode 0600
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _warn(path: Path, fault: str) -> None:
    warn(f"{path}: {fault}; it is not used and is built anew")
