"""Learned policies: that they are kept, and play wherever a rule does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecMonitor, VecNormalize

from paramarket_baselines.evaluation.play import Arm, play
from paramarket_baselines.policies.learned import Learned, Normaliser, algorithm
from paramarket_baselines.policies.saving import save_policy
from paramarket_baselines.training.plan import Plan
from paramarket_baselines.training.sb3 import learn
from paramarket_env.adapters.sb3 import ParaMarketVecEnv
from paramarket_env.config import MarketConfig
from paramarket_env.files import write_set
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import seat_of
from tests.baselines.policies.test_decisions import seat, seated
from tests.helpers import priced_market

CONFIG = priced_market(max_cycles=4)


def trained(config: MarketConfig, name: str, folder: Path) -> BaseAlgorithm:
    """A policy, trained next to not at all, and kept."""
    return learn(Plan(config, name, timesteps=1, num_markets=4), folder, "cpu")


# --- keeping and playing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *(("ppo", "round"), ("dqn", "verb"), ("maskable-ppo", "round"), ("a2c", "verb")),
        *(("recurrent-ppo", "round"), ("recurrent-ppo", "verb")),
    ],
)
def test_a_policy_that_was_kept_acts_as_the_model_that_was_trained(name: str, mode: str, tmp_path: Path) -> None:
    config = priced_market(max_cycles=4, action_mode=mode)
    model = trained(config, name, tmp_path)
    batch = MarketBatch(config, 5, "cpu")
    seen, mask = batch.reset(torch.arange(5))
    player = seated(f"learned:{tmp_path / 'checkpoint'}", seat_of(batch, 5))
    masks = {"action_masks": mask[:, 1].numpy()} if name == "maskable-ppo" else {}
    env = model.get_vec_normalize_env()
    assert env is not None
    expected, _ = model.predict(env.normalize_obs(seen[:, 1].numpy()), deterministic=True, **masks)
    assert np.array_equal(player.act(seen[:, 1], mask[:, 1]).numpy(), expected)
    if name == "maskable-ppo":
        parts = mask[:, 1].split(batch.actions.nvec, dim=1)
        acted = player.act(seen[:, 1], mask[:, 1]).unbind(1)
        assert all(bool(part.gather(1, action.unsqueeze(1)).all()) for part, action in zip(parts, acted, strict=True))


@pytest.mark.parametrize("mode", ["verb", "round"])
def test_a_recurrent_policy_remembers_the_episode_of_each_row_as_the_model_does(mode: str, tmp_path: Path) -> None:
    config = priced_market(max_cycles=4, action_mode=mode)
    model: Any = trained(config, "recurrent-ppo", tmp_path)
    with torch.no_grad():  # almost untrained, it would hardly use what it remembers
        model.policy.action_net.weight.normal_(generator=torch.Generator().manual_seed(0))
        model.policy.action_net.bias.zero_()
    save_policy(tmp_path / "mine", model)
    model.save(tmp_path / "mine.zip")
    scaled = model.get_vec_normalize_env()
    scaled.save(tmp_path / "scale")
    zipped = f"path={str(tmp_path / 'mine.zip')!r}, normalise={str(tmp_path / 'scale')!r}"
    env = ParaMarketVecEnv(config, 6, "cpu", ("random",))
    names = (f"learned:{tmp_path / 'mine'}", f"sb3({zipped}, algo='recurrent-ppo')")
    players = [seated(name, seat_of(env.market_batch, 6)) for name in names]
    seen, state, starts, differs = env.reset(), None, np.ones(6, dtype=bool), False
    for step in range(8):
        observation, mask = torch.from_numpy(seen), torch.from_numpy(env.action_masks())
        if step == 2:  # an episode can begin in some rows alone
            starts[[1, 4]] = True
        rows = torch.from_numpy(starts.nonzero()[0])
        expected, state = model.predict(scaled.normalize_obs(seen), state, starts, deterministic=True)
        forgetful, _ = model.predict(scaled.normalize_obs(seen), deterministic=True)
        differs |= not np.array_equal(expected, forgetful)
        for player in players:
            player.reset(rows, rows)
            assert np.array_equal(player.act(observation, mask).numpy(), expected)
        seen, _, starts, _ = env.step(expected)
    assert starts.all()
    assert differs


@pytest.mark.parametrize("normalise", [False, True])
def test_a_model_of_ones_own_is_kept_with_the_scale_of_its_observations(normalise: bool, tmp_path: Path) -> None:
    env: VecEnv = VecMonitor(ParaMarketVecEnv(CONFIG, 4, "cpu"))
    env = VecNormalize(env, norm_obs=normalise)  # where it scales rewards alone, observations are as they are
    model = A2C("MlpPolicy", env, n_steps=4, policy_kwargs={"net_arch": [5]}, device="cpu", seed=0).learn(48)
    folder = tmp_path / "new" / "mine"
    save_policy(folder, model, {"note": "mine"})
    batch = MarketBatch(CONFIG, 5, "cpu")
    seen, mask = batch.reset(torch.arange(5))
    player = seated(f"learned:{folder}", seat_of(batch, 5))
    scaled = env.normalize_obs(seen[:, 1].numpy()) if normalise else seen[:, 1].numpy()
    expected, _ = model.predict(scaled, deterministic=True)
    assert np.array_equal(player.act(seen[:, 1], mask[:, 1]).numpy(), expected)
    kept = json.loads((folder / "policy.json").read_text())
    assert (kept["algorithm"], kept["metadata"]) == ("a2c", {"note": "mine"})


@pytest.mark.parametrize(
    "env", [None, lambda: make_vec_env("CartPole-v1"), lambda: VecFrameStack(ParaMarketVecEnv(CONFIG, 1, "cpu"), 2)]
)
def test_a_model_of_another_environment_is_not_kept(env: Callable[[], VecEnv] | None, tmp_path: Path) -> None:
    model = A2C("MlpPolicy", env() if env else None, device="cpu", _init_setup_model=env is not None)
    with pytest.raises(ValueError, match="it must have learned on a ParaMarketVecEnv"):
        save_policy(tmp_path / "none", model)
    assert not (tmp_path / "none").exists()


def test_an_algorithm_that_could_not_be_loaded_is_not_kept(tmp_path: Path) -> None:
    class MyPPO(PPO):
        pass

    model = MyPPO("MlpPolicy", ParaMarketVecEnv(CONFIG, 1, "cpu"), n_steps=4, batch_size=4, device="cpu")
    with pytest.raises(ValueError, match="unknown algorithm 'myppo': choose from a2c, dqn, maskableppo, ppo, rec"):
        save_policy(tmp_path, model)


def test_a_learned_policy_plays_against_rules(tmp_path: Path) -> None:
    trained(CONFIG, "ppo", tmp_path)
    steps = play(CONFIG, Arm("mixed", (f"learned:{tmp_path}", "paper", "patient:1")), (0, 1), "cpu").steps
    assert len(steps) == 5 * 2 * 3


def test_observations_are_scaled_as_they_were_in_training() -> None:
    scale = Normaliser(np.array([1.0, 2.0]), np.array([4.0, 0.25]), 3.0)
    assert scale(np.array([[3.0, 2.0], [1.0, 9.0]])).tolist() == [[1.0, 0.0], [0.0, 3.0]]
    assert scale(np.zeros((1, 2), dtype=np.float32)).dtype == np.float32


def test_a_policy_made_for_other_observations_or_actions_is_refused(tmp_path: Path) -> None:
    trained(CONFIG, "ppo", tmp_path)
    with pytest.raises(ValueError, match=r"was made for another market: its observation has .*'trade_price'"):
        Learned(str(tmp_path))(seat(priced_market(max_cycles=4, disclosure="none")))
    with pytest.raises(ValueError, match=r"was made for another market: its nvec"):
        Learned(str(tmp_path))(seat(priced_market(max_cycles=4, action_mode="round")))


def test_a_folder_without_a_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not there"):
        seated(f"learned:{tmp_path}", seat(CONFIG))


@pytest.mark.parametrize("name", ["maskable-ppo", "recurrent-ppo"])
def test_an_extra_that_is_missing_is_named_with_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(ImportError, match=f"algo='{name}' needs sb3-contrib: pip install sb3-contrib"):
        algorithm(name)


# --- damaged and foreign files ------------------------------------------------------------------------------------


@cache
def files_of_a_policy() -> dict[str, bytes]:
    """The files of a small policy, by name."""
    model = A2C("MlpPolicy", ParaMarketVecEnv(CONFIG, 1, "cpu"), policy_kwargs={"net_arch": [5]}, device="cpu", seed=0)
    with TemporaryDirectory() as folder:
        save_policy(folder, model)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def write_policy(folder: Path, changed: dict[str, bytes | None]) -> str:
    """Write the small policy with changed files; None is a folder instead of a file."""
    for name, data in (files_of_a_policy() | changed).items():
        (folder / name).mkdir() if data is None else (folder / name).write_bytes(data)
    return str(folder)


def damages() -> Iterator[object]:
    for suffix, data in {Path(name).suffix: data for name, data in files_of_a_policy().items()}.items():
        length = len(data)
        yield pytest.param(suffix, None, id=f"{suffix}-folder")
        yield from (
            pytest.param(suffix, data[:n], id=f"{suffix}-cut-{n}") for n in (0, 1, 7, 8, 9, length // 2, length - 3)
        )
        for place in (0, 7, 8, length // 2, length - 2):
            flipped = bytes([*data[:place], data[place] ^ 0xA5, *data[place + 1 :]])
            yield pytest.param(suffix, flipped, id=f"{suffix}-flipped-{place}")


@pytest.mark.parametrize(("suffix", "data"), [*damages()])
def test_a_damaged_file_is_refused_by_name(suffix: str, data: bytes | None, tmp_path: Path) -> None:
    name = next(name for name in files_of_a_policy() if name.endswith(suffix))
    folder = write_policy(tmp_path, {name: data})
    with pytest.raises(ValueError, match=r"policy\.json|weights-\w+\.safetensors") as caught:
        Learned(folder)(seat(CONFIG))
    assert "\n" not in str(caught.value)[:300]


NUMBERS: list[Any] = [
    None,
    True,
    "x",
    [],
    {},
    -1,
    0,
    10**400,
    2**63,
    1e308,
    float("nan"),
    [[]],
    [0],
    [10**9],
    ["x"],
    [{}],
]


@pytest.mark.parametrize("value", NUMBERS, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize(
    "key", ["algorithm", "observation", "nvec", "hidden", "activation", "clip", "files", "lstm", "new"]
)
def test_json_of_other_types_and_sizes_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    content = json.loads(files_of_a_policy()["policy.json"])
    if content.get(key, "-") == value or (key == "clip" and value in (2**63, 1e308)):
        pytest.skip("is allowed")
    folder = write_policy(tmp_path, {"policy.json": json.dumps(content | {key: value}).encode()})
    with pytest.raises(ValueError, match=r"policy\.json|weights-|was made for another market"):
        Learned(folder)(seat(CONFIG))


@pytest.mark.parametrize("key", ["algorithm", "observation", "nvec", "hidden", "activation", "clip", "files"])
def test_a_missing_key_is_named(key: str, tmp_path: Path) -> None:
    content = json.loads(files_of_a_policy()["policy.json"])
    del content[key]
    folder = write_policy(tmp_path, {"policy.json": json.dumps(content).encode()})
    with pytest.raises(ValueError, match=rf"policy\.json' is damaged: .*{key} must be given"):
        Learned(folder)(seat(CONFIG))


def reweighted(folder: Path, data: bytes) -> str:
    """The small policy with other weights, of which the manifest has the right hash."""
    content = json.loads(files_of_a_policy()["policy.json"])
    keep = {key: value for key, value in content.items() if key != "files"}
    write_set(folder / "policy.json", keep, {"weights.safetensors": data})
    return str(folder)


CHANGES: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "missing": lambda tensors: {name: each for name, each in tensors.items() if name != "mean"},
    "extra": lambda tensors: tensors | {"9.weight": torch.zeros(2)},
    "shape": lambda tensors: tensors | {"0.weight": torch.zeros(3, 3)},
    "dtype": lambda tensors: tensors | {"0.weight": tensors["0.weight"].double()},
    "nan": lambda tensors: tensors | {"0.bias": tensors["0.bias"] * torch.nan},
    "variance": lambda tensors: tensors | {"variance": -tensors["variance"]},
}


@pytest.mark.parametrize("change", CHANGES)
def test_tensors_of_another_kind_are_refused(change: str, tmp_path: Path) -> None:
    weights = next(data for name, data in files_of_a_policy().items() if name.endswith(".safetensors"))
    folder = reweighted(tmp_path, save(CHANGES[change](load(weights))))
    with pytest.raises(ValueError, match=r"weights.safetensors of .* is damaged"):
        Learned(folder)(seat(CONFIG))


@pytest.mark.parametrize("size", [2**20, 2**45, 2**63])
def test_a_header_that_claims_more_than_there_is_is_refused(size: int, tmp_path: Path) -> None:
    header = json.dumps({"mean": {"dtype": "F64", "shape": [size // 8], "data_offsets": [0, size]}}).encode()
    for data in (len(header).to_bytes(8, "little") + header + b"0" * 64, size.to_bytes(8, "little") + header):
        with pytest.raises(ValueError, match=r"weights.safetensors of .* is damaged"):
            Learned(reweighted(tmp_path, data))(seat(CONFIG))


def test_to_play_a_policy_executes_nothing_and_needs_no_algorithm(tmp_path: Path) -> None:
    folder = write_policy(tmp_path, {})
    code = "import sys, pickle\nfrom tests.baselines.policies.test_decisions import seat\n"
    code += "from paramarket_env.interface.policy import POLICIES\nfrom tests.helpers import priced_market\n"
    code += "pickle.loads = pickle.load = pickle.Unpickler = None\n"
    code += f"POLICIES.parse('learned:{folder}')(seat(priced_market(max_cycles=4)))\n"
    code += "print('stable_baselines3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr


class OwnExtractor(FlattenExtractor):
    """A features extractor that a saved policy cannot have."""


@pytest.mark.parametrize(
    "network",
    [
        {"features_extractor_class": OwnExtractor},
        {"activation_fn": torch.nn.Softplus},
        {"activation_fn": partial(torch.nn.LeakyReLU, 0.5)},
    ],
)
def test_a_network_that_the_format_cannot_hold_is_refused_and_says_what_to_do(network: Any, tmp_path: Path) -> None:
    model = A2C("MlpPolicy", ParaMarketVecEnv(CONFIG, 1, "cpu"), policy_kwargs=network, device="cpu")
    with pytest.raises(ValueError, match=r"model cannot be saved: its network must .* play it as sb3:PATH"):
        save_policy(tmp_path / "mine", model)
    assert not (tmp_path / "mine").exists()
    model.save(tmp_path / "mine.zip")
    batch = MarketBatch(CONFIG, 5, "cpu")
    seen, mask = batch.reset(torch.arange(5))
    player = seated(f"sb3(path={str(tmp_path / 'mine.zip')!r}, algo='a2c')", seat_of(batch, 5))
    expected, _ = model.predict(seen[:, 1].numpy(), deterministic=True)
    assert np.array_equal(player.act(seen[:, 1], mask[:, 1]).numpy(), expected)


@pytest.mark.parametrize("network", [{"n_lstm_layers": 2}, {"lstm_kwargs": {"bias": False}}])
def test_another_lstm_than_one_of_a_single_layer_is_refused(network: Any, tmp_path: Path) -> None:
    model = algorithm("recurrent-ppo")(
        "MlpLstmPolicy", ParaMarketVecEnv(CONFIG, 1, "cpu"), policy_kwargs=network, device="cpu"
    )
    with pytest.raises(ValueError, match=r"model cannot be saved: .* MlpLstmPolicy with an LSTM of one layer"):
        save_policy(tmp_path / "mine", model)


def test_an_lstm_of_another_size_than_its_tensors_is_refused(tmp_path: Path) -> None:
    content = json.loads(files_of_a_policy()["policy.json"])
    folder = write_policy(tmp_path, {"policy.json": json.dumps(content | {"lstm": 8}).encode()})
    with pytest.raises(ValueError, match=r"is damaged: its tensors 0.weight, lstm.bias_hh, .* are not those"):
        Learned(folder)(seat(CONFIG))


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model = A2C("MlpPolicy", ParaMarketVecEnv(CONFIG, 1, "cpu"), device="cpu")
    save_policy("~/mine", model)
    assert (tmp_path / "mine" / "policy.json").is_file()
    seated("learned:~/mine", seat(CONFIG))
    model.save(tmp_path / "mine.zip")
    seated("sb3(path='~/mine.zip', algo='a2c')", seat(CONFIG))
