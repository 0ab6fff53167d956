"""What must not stand anywhere in the source: ways by which data, or a model's folder, could run code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path for part in ("swiftlike", "tools", "benchmarks", "examples") for path in (ROOT / part).rglob("*.py")
)
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn", "os.execl"}
RUN = {"eval", "exec", "compile", "__import__"}
PICKLES = {f"{module}.{call}" for module in ("pickle", "dill", "cloudpickle", "marshal") for call in ("load", "loads")}
PICKLES |= {"shelve.open", "joblib.load", "pickle.Unpickler", "pandas.read_pickle", "pd.read_pickle"}
TEMPORARY = {"tempfile.mktemp", "os.tempnam", "os.tmpnam"}
YAML = {"yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "yaml.full_load_all", "yaml.unsafe_load_all"}


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """(dotted name, call) of every call."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keywords(call: ast.Call) -> dict[str, str]:
    return {word.arg: ast.unparse(word.value) for word in call.keywords if word.arg}


def _loads_pickles(name: str, call: ast.Call, words: dict[str, str]) -> bool:
    full = name.endswith("torch.load") and words.get("weights_only") != "True"
    numpy = name in ("np.load", "numpy.load") and words.get("allow_pickle", "False") != "False"
    return full or numpy or name in PICKLES


def _loads_yaml(name: str, call: ast.Call, words: dict[str, str]) -> bool:
    loader = words.get("Loader") or (ast.unparse(call.args[1]) if len(call.args) > 1 else "")
    return name in YAML or (name == "yaml.load" and loader not in ("Loader", "yaml.SafeLoader", "SafeLoader"))


def _runs_shell(name: str, call: ast.Call, words: dict[str, str]) -> bool:
    return name in SHELLS or words.get("shell", "False") != "False"


def _trusts(name: str, call: ast.Call, words: dict[str, str]) -> bool:
    return words.get("trust_remote_code", "False") not in ("False", "source.remote", "trust_remote_code", "trusted")


def _runs_text(name: str, call: ast.Call, words: dict[str, str]) -> bool:
    return name in RUN


def _is_careless(name: str, call: ast.Call, words: dict[str, str]) -> bool:
    return name in TEMPORARY or words.get("verify") == "False" or name.endswith("._create_unverified_context")


RULES = {
    "a pickle is read in full: torch.load wants weights_only=True": (
        _loads_pickles,
        ["torch.load(p)", "torch.load(p, weights_only=False)", "pickle.load(f)", "np.load(p, allow_pickle=True)"],
        ["torch.load(p, weights_only=True)", "json.load(f)", "np.load(p)"],
    ),
    "YAML that can make objects": (
        _loads_yaml,
        ["yaml.load(t, yaml.Loader)", "yaml.load(t)", "yaml.unsafe_load(t)", "yaml.load(t, Loader=yaml.FullLoader)"],
        ["yaml.safe_load(t)", "yaml.load(t, Loader=yaml.SafeLoader)"],
    ),
    "a shell reads a text": (
        _runs_shell,
        ["subprocess.run(t, shell=True)", "os.system(t)", "subprocess.Popen(t, shell=flag)"],
        ["subprocess.run([a, b])"],
    ),
    "a text is run": (_runs_text, ["eval(t)", "exec(t)"], ["ast.literal_eval(t)", "model.eval()"]),
    "code of a stranger's model folder is run": (
        _trusts,
        ["AutoModel.from_pretrained(p, trust_remote_code=True)", "f(trust_remote_code=run.model.trust_remote_code)"],
        ["AutoModel.from_pretrained(p, trust_remote_code=False)"],
    ),
    "a name that another may take first, or a certificate that nobody looks at": (
        _is_careless,
        ["tempfile.mktemp()", "httpx.get(u, verify=False)"],
        ["tempfile.mkdtemp()"],
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_nothing_in_the_source_could_run_what_was_read(rule: str) -> None:
    breaks, *_ = RULES[rule]
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}: {name}"
        for path in FILES
        for name, call in calls(path.read_text(encoding="utf-8"))
        if breaks(name, call, keywords(call))
    ]
    assert not found, f"{rule}:\n" + "\n".join(found)


@pytest.mark.parametrize("rule", RULES)
def test_the_rules_see_what_they_are_for(rule: str) -> None:
    breaks, bad, good = RULES[rule]
    for text, expected in (*((one, True) for one in bad), *((one, False) for one in good)):
        ((name, call), *_) = calls(text)
        assert breaks(name, call, keywords(call)) is expected, text


def test_the_yaml_loader_of_ours_is_a_safe_one() -> None:
    """core/files.py names its own class `Loader`."""
    tree = ast.parse((ROOT / "swiftlike/core/files.py").read_text(encoding="utf-8"))
    bases = {node.name: ast.unparse(node.bases[0]) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    assert bases == {"Loader": "yaml.SafeLoader"}
    named = [path for path in FILES if "yaml.load(" in path.read_text(encoding="utf-8")]
    assert named == [ROOT / "swiftlike/core/files.py"]
