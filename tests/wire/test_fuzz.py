"""The fuzzer's kept corpus, run without the fuzzer: whatever it once found interesting still holds the invariant."""

import importlib.util
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "fuzz"
spec = importlib.util.spec_from_file_location("fuzz_wire", FOLDER / "fuzz_wire.py")
fuzz_wire = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz_wire)


def test_the_corpus_holds_the_invariant():
    inputs = sorted(FOLDER.joinpath("corpus").iterdir())
    assert len(inputs) > 100
    for path in inputs:
        fuzz_wire.one_input(path.read_bytes())
