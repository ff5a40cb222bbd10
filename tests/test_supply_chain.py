"""What is installed and run is what was looked at: exact versions with hashes, and an image without rights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from audit_lock import verdict

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "compose" / "Dockerfile"
LOCKS = ("requirements.lock", "compose/image.lock", "compose/audit.lock")


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_an_exact_version_and_hashes(name: str) -> None:
    """Whatever stands in the lock is a package, pinned, with SHA-256 hashes, from no address of its own."""
    hashes = r"(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+"
    package = rf"^[a-z0-9][a-z0-9.-]*==[\w.!+]+( ; [^\\\n]+)? \\\n{hashes}(    #.*\n)*"
    left = re.sub(package, "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert not left.strip()


def test_the_image_has_the_versions_that_are_tested() -> None:
    """The development's lock without its tools: no package of another version, or with other hashes."""
    tested, image = (
        {name: set(re.findall(r"sha256:\w+", rest)) | {version}
         for name, version, rest in re.findall(
             r"^([\w.-]+)==(\S+)(.*?)(?=^\w|\Z)", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)}
        for lock in LOCKS[:2]
    )  # fmt: skip
    assert image.items() <= tested.items()
    assert not image.keys() & {"pytest", "mypy", "ruff", "hypothesis", "pre-commit"}


def test_everything_is_installed_with_its_hashes() -> None:
    makefile, image = ((ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "compose/Dockerfile"))
    for text in (makefile, image):
        installs = re.findall(r"pip install (.*)", text)
        assert installs
        assert all("--require-hashes" in words or "--no-deps --no-build-isolation" in words for words in installs)


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def test_the_image_runs_without_rights_and_holds_no_secret() -> None:
    found = instructions()
    last = max(i for i, (word, _) in enumerate(found) if word == "FROM")
    final = found[last:]
    users = [words for word, words in final if word == "USER"]
    assert users
    assert users[-1].split(":")[0] not in ("root", "0")
    assert [word for word, _ in final].index("USER") > max(
        i for i, (word, _) in enumerate(final) if word in ("RUN", "COPY")
    )
    assert not [words for _, words in found if re.search(r"password|passwd|secret|token|sudo|curl|wget", words, re.I)]
    assert not [words for word, words in found if word == "ADD"]
    copied = {words.split()[0] for word, words in found if word == "COPY" and not words.startswith("--from")}
    assert copied <= {"compose/image.lock", "pyproject.toml", "schemas", "tables", "agents", "replay", "app"}
    assert all((ROOT / name).exists() for name in copied)


def test_only_the_data_folder_is_written_to() -> None:
    """A read-only image: what the settings and numba write lies in the volume."""
    settings = dict(re.findall(r"(\w+)=(\S+)", " ".join(words for word, words in instructions() if word == "ENV")))
    written = ("NUMBA_CACHE_DIR", "ONETAPE_DATA_DIR", "ONETAPE_ARCHIVE_DIR", "ONETAPE_REGISTRY")
    assert all(settings[name].startswith("/data/") for name in written)
    assert settings["PYTHONDONTWRITEBYTECODE"] == "1"


def test_what_is_sent_to_the_builder_is_named() -> None:
    first, *kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert first == "*"
    assert not [name for name in kept if re.search(r"env|onetape|git", name)]


FINE = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([FINE, FINE], 0),
        ([FINE, BAD], 1),
        ([SKIPPED, BAD], 1),
        ([FINE, SKIPPED], 3),
        ([FINE], 3),
        ([], 3),
    ],
)
def test_an_audit_passes_only_when_every_package_was_told_of(found: list[dict[str, object]], code: int) -> None:
    assert verdict(json.dumps({"dependencies": found}), 2)[0] == code


@pytest.mark.parametrize("report", ["", "no JSON", "[]", "null", "{}"])
def test_an_audit_without_an_answer_is_no_pass(report: str) -> None:
    code, lines = verdict(report, 2)
    assert code == 3
    assert "Action: " in lines[0]
