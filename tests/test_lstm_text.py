"""A recurrent language model: trained, generating, saved; against whole forward passes and PyTorch."""

import numpy as np
import pytest
from check_op import bound, for_each_isa
from test_cli_text import SMALL, TEXT, call

import fastnn
from fastnn import Trainer, nn, optim
from fastnn.models import LSTMLanguageModel

PROMPT = np.random.default_rng(2).integers(0, 31, 9)


def model_of(layers=2):
    with fastnn.rng.scope(0):
        model = LSTMLanguageModel(31, 24, layers)
        for p in model.parameters():
            p.data *= 6
    return model


def greedy(model, prompt, tokens):
    known = list(prompt)
    for _ in range(tokens):
        known.append(int(model(np.array([known]))[0, -1].argmax()))
    return known[len(prompt) :]


@for_each_isa
def test_greedy_tokens_are_those_of_whole_passes(isa):
    with bound(isa):
        model = model_of()
        expected = greedy(model, PROMPT, 40)
        assert len(set(expected)) > 3
        assert model.generate(PROMPT, 40, temperature=0).tolist() == expected


def test_prompts_of_different_lengths_and_seeds():
    model = model_of(1)
    prompts = [PROMPT[:4], PROMPT, PROMPT[5:6]]
    made = model.generate(prompts, 20, temperature=0)
    for row, prompt in zip(made, prompts, strict=True):
        assert row.tolist() == greedy(model, prompt, 20)
    drawn = model.generate(PROMPT, 50, seed=3)
    assert np.array_equal(drawn, model.generate(PROMPT, 50, seed=3))
    assert not np.array_equal(drawn, model.generate(PROMPT, 50, seed=4))
    assert len(model.generate(np.resize(PROMPT, 500), 3)) == 3


def test_it_trains_as_in_pytorch():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    fastnn.manual_seed(0)
    model = LSTMLanguageModel(31, 24, 1)
    wte, lstm, head = torch.nn.Embedding(31, 24), torch.nn.LSTM(24, 24, batch_first=True), torch.nn.Linear(24, 31)
    parts = torch.nn.ModuleDict({"wte": wte, "lstm": lstm, "head": head})
    parts.load_state_dict({k: torch.tensor(v) for k, v in model.state_dict().items()})
    optimizer = torch.optim.Adam(parts.parameters(), lr=1e-2)
    trainer = Trainer(model, nn.CrossEntropyLoss(class_dim=-1), optim.Adam(lr=1e-2))
    for step in range(15):
        ids = np.random.default_rng(step).integers(0, 31, (4, 12))
        target = (ids * 5 + 1) % 31
        loss = torch.nn.functional.cross_entropy(
            head(lstm(wte(torch.tensor(ids)))[0]).flatten(0, 1), torch.tensor(target).flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert trainer.step(ids, target) == pytest.approx(loss.item(), rel=1e-4)


def test_the_command_trains_it(tmp_path):
    (tmp_path / "play.txt").write_text(TEXT)
    status, out, err = call("train-text", tmp_path / "play.txt", *SMALL, "--model", "lstm", "--iterations", 60,
                            "--output", tmp_path / "m.safetensors")
    assert (status, err) == (0, "") and "LSTMLanguageModel, 1 layer(s), 16 wide" in out
    assert isinstance(fastnn.load(tmp_path / "m.safetensors"), LSTMLanguageModel)
    status, out, err = call("generate", tmp_path / "m.safetensors", "--prompt", "To be, or not to be, that")
    assert (status, err) == (0, "") and out.startswith("To be, or not to be, that")
