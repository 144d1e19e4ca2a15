"""The build backend of the wheel (PEP 517): maturin, with both programs in one package.

maturin packs the programs of one crate; ours are two crates, since neither may link the other. So cargo builds the
broker first, in the same profile, and maturin takes it as data for the directory of programs.

The source archive is the repository, as git has it, with this directory's pyproject.toml at its root: what builds there
builds from it, with the same lock file.
"""

import contextlib
import gzip
import io
import json
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import maturin
from maturin import (  # noqa: F401  hooks that are maturin's own
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
DATA = HERE / "data"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """A wheel with both programs."""
    with staged(broker(config_settings or {})):
        return maturin.build_wheel(wheel_directory, config_settings, metadata_directory)


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    """What the wheel will say of itself."""
    with staged():
        return maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def build_sdist(sdist_directory, config_settings=None):
    """The source archive. The same commit gives the same bytes."""
    metadata = package_information(config_settings)
    version = next(line for line in metadata.splitlines() if line.startswith("Version: "))
    name = f"sigward_proxy-{version.removeprefix('Version: ')}"
    time = int(os.environ.get("SOURCE_DATE_EPOCH") or git("show", "--no-patch", "--format=%ct"))
    files = {path: contents(ROOT / path) for path in git("ls-files", "-z").split("\0") if path}
    files["PKG-INFO"] = (metadata.encode(), 0o644)
    files["pyproject.toml"] = (from_the_root().encode(), 0o644)
    files[".cargo_vcs_info.json"] = (commit(time).encode(), 0o644)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, (data, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size, entry.mode, entry.mtime = len(data), mode, time
            archive.addfile(entry, io.BytesIO(data))
    target = Path(sdist_directory) / f"{name}.tar.gz"
    target.write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    return target.name


def broker(config_settings):
    """The path of sigward-broker, built in the profile that maturin is told to build in."""
    profile = profile_of(config_settings)
    command = ["cargo", "build", "--locked", "--profile", profile, "--bin", "sigward-broker"]
    manifest = str(ROOT / "broker" / "Cargo.toml")
    command += ["--manifest-path", manifest, "--message-format", "json-render-diagnostics"]
    built = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    programs = [json.loads(line).get("executable") for line in built.stdout.splitlines()]
    return Path(next(program for program in programs if program))


def profile_of(config_settings):
    """`--profile NAME` among the arguments for maturin; release without it, as maturin does it."""
    given = config_settings.get("build-args") or os.environ.get("MATURIN_PEP517_ARGS") or []
    words = shlex.split(given) if isinstance(given, str) else list(given)
    for word, following in zip(words, words[1:] + [""]):
        if word == "--profile":
            return following
        if word.startswith("--profile="):
            return word.removeprefix("--profile=")
    return "release"


@contextlib.contextmanager
def staged(*programs):
    """Lays programs where maturin looks for what goes beside its own."""
    scripts = DATA / "scripts"
    shutil.rmtree(DATA, ignore_errors=True)
    scripts.mkdir(parents=True)
    for program in programs:
        shutil.copy(program, scripts)
    try:
        yield
    finally:
        shutil.rmtree(DATA)


def package_information(config_settings):
    """The package's metadata, as the wheel will have it."""
    with tempfile.TemporaryDirectory() as directory:
        made = prepare_metadata_for_build_wheel(directory, config_settings)
        return (Path(directory) / made / "METADATA").read_text(encoding="utf-8")


def from_the_root():
    """pyproject.toml, with its paths from the root of the archive."""
    text = (HERE / "pyproject.toml").read_text(encoding="utf-8")
    here = HERE.relative_to(ROOT).as_posix()
    for old, new in {
        'backend-path = ["."]': f'backend-path = ["{here}"]',
        'readme = "README.md"': 'readme = "proxy/README.md"',
        'manifest-path = "../../Cargo.toml"': 'manifest-path = "proxy/Cargo.toml"',
        'data = "data"': f'data = "{here}/data"',
    }.items():
        if text.count(old) != 1:
            raise SystemExit(f"pyproject.toml: there must be one line {old}")
        text = text.replace(old, new)
    return text


def contents(path):
    """A file's bytes and mode; of a link, those of what it leads to, so that nothing leads out of the archive."""
    return path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644


def commit(time):
    """What the build scripts read for `--version`, in the form of cargo's own packages."""
    information = {"git": {"sha1": git("rev-parse", "HEAD")}, "time": time}
    if git("status", "--porcelain", "--untracked-files=no"):
        information["git"]["dirty"] = True
    return json.dumps(information) + "\n"


def git(*arguments):
    """What git says of the repository."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
