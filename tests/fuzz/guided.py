"""Inputs that go where none has been: atheris watches which lines of gossipnode a decoder runs.

In ``tests``, ``python -m fuzz.guided [--inputs N] [NAMES]`` gives each decoder N of them, a
fiftieth where it reads files, which is slow when watched. Each has a process of its own, for
atheris ends its process. It begins from the seeds and the corpus; what a decoder does not survive
is kept there, as ``fuzz.mutating`` does.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

# A fault in C would end the process without a word; libFuzzer then leaves the input here.
MEMORY_MB = 2048


def one(name: str, inputs: int, seed: int) -> None:
    """Fuzz one decoder, and end the process: with 0 where it survives, else as libFuzzer does."""
    import atheris

    with atheris.instrument_imports(include=["gossipnode", "fuzz.coded", "fuzz.files"]):
        from fuzz.decoders import DECODERS
    from fuzz.mutating import LENGTH_MAX, keep

    decoder = DECODERS[name]

    def check(data: bytes) -> None:
        try:
            decoder.check(data)
        except BaseException:
            keep(decoder, data)
            raise

    folder = Path(tempfile.mkdtemp(prefix=f"gossipnode-guided-{name}-"))
    for number, data in enumerate([*decoder.seeds, *decoder.corpus()]):
        (folder / f"{number}").write_bytes(data)
    words = [
        f"-runs={inputs // 50 if decoder.is_file else inputs}", f"-max_len={LENGTH_MAX}",
        f"-seed={seed + 1}", f"-rss_limit_mb={MEMORY_MB}", "-timeout=10", "-verbosity=0",
        "-print_final_stats=1", f"-artifact_prefix={folder}/fault-", str(folder),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *words], check)
    atheris.Fuzz()


def main() -> int:
    """Fuzz each decoder in turn; return how many did not survive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    if options.one:
        one(options.one, options.inputs, options.seed)
    if importlib.util.find_spec("atheris") is None:
        print("atheris has no wheel for this machine: left out", file=sys.stderr)
        return 0
    from fuzz.decoders import DECODERS

    faults = 0
    for name in options.names or DECODERS:
        words = [sys.executable, "-m", "fuzz.guided", "--one", name]
        words += ["--inputs", str(options.inputs), "--seed", str(options.seed)]
        done = subprocess.run(words, check=False, stderr=subprocess.PIPE, text=True)
        faults += done.returncode != 0
        told = dict(
            line.removeprefix("stat::").split(":", 1)
            for line in done.stderr.splitlines()
            if line.startswith("stat::")
        )
        ran, found = (
            int(told.get(key, 0)) for key in ("number_of_executed_units", "new_units_added")
        )
        print(f"{name}: {ran:,} inputs, {found} that went elsewhere", flush=True)
        if done.returncode:
            print(done.stderr[-4000:], file=sys.stderr)
    return faults


if __name__ == "__main__":
    sys.exit(main())
