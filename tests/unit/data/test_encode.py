"""What is kept changes how often the encoder is asked, and nothing else."""

from __future__ import annotations

import torch

from inpo.data.encode import BoundedStore, Latents, PairEncoder
from tests.unit.data.making import SmallEncoder


def pictures(count: int) -> list[torch.Tensor]:
    """Pairs of random pictures."""
    return [torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(count)]


def test_latents_are_the_encoders_mean_pair_by_pair() -> None:
    """One call for all; 4×4 means as the encoder makes them; winner before loser."""
    inner = SmallEncoder()
    encoder = PairEncoder(inner, latents="mean", prompt_bytes=0)
    pairs = pictures(3)
    made = encoder.latents(pairs)
    assert inner.image_calls == [6]
    assert encoder.images_encoded == 6
    assert all(latents.std is None for latents in made)
    torch.testing.assert_close(made[1].mean[1, :, 0, 0], pairs[1][1, :, :4, :4].mean(dim=(1, 2)))
    assert made[0].draw(seed=0, position=0) is made[0].mean


def test_prompts_of_a_step_are_read_in_one_visit() -> None:
    """And where all of them are kept there is none."""
    inner = SmallEncoder()
    encoder = PairEncoder(inner, latents="mean", prompt_bytes=1 << 20)
    encoder.condition(["a", "b", "a"])
    assert (inner.prompts, inner.readings) == (["a", "b"], 1)
    encoder.condition(["b", "a"])
    assert (inner.prompts, inner.readings) == (["a", "b"], 1)
    assert encoder.keep_prompts(["a", "c", "d"])
    assert (inner.prompts, inner.readings) == (["a", "b", "c", "d"], 2)


def test_samples_are_mean_plus_std_times_noise_of_the_position() -> None:
    """Pure in (seed, position): drawn twice the same, elsewhere another; winner's and loser's noise differ; law N(0, 1)."""
    latents = PairEncoder(SmallEncoder(), latents="sample", prompt_bytes=0).latents([torch.zeros(2, 3, 256, 256)])[0]
    draw = latents.draw(seed=1, position=7)
    assert torch.equal(draw, latents.draw(seed=1, position=7))
    assert not torch.equal(draw, latents.draw(seed=2, position=7))
    assert not torch.equal(draw, latents.draw(seed=1, position=8))
    assert not torch.equal(draw[0], draw[1])
    noise = (draw - latents.mean) / 0.25
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03


def test_a_prompt_is_encoded_once_and_always_by_itself() -> None:
    """Repeated in one call and over calls; rows stand where their prompts do."""
    inner = SmallEncoder()
    encoder = PairEncoder(inner, latents="mean", prompt_bytes=1 << 20)
    first = encoder.condition(["b", "a", "b", ""])
    assert inner.prompts == ["b", "a", ""]
    again = encoder.condition(["", "c", "b"])
    assert inner.prompts == ["b", "a", "", "c"]
    assert encoder.prompts_encoded == 4
    assert torch.equal(first.tensors["text"][[0, 3]], again.tensors["text"][[2, 0]])
    assert torch.equal(first.tensors["text"][1:2], inner.encode_prompts(["a"]).tensors["text"])


def test_without_room_prompts_are_encoded_each_time_with_the_same_result() -> None:
    """Room for two prompts of 24 bytes; the third is encoded again and again."""
    inner = SmallEncoder()
    encoder = PairEncoder(inner, latents="mean", prompt_bytes=50)
    once, twice = encoder.condition(["a", "b", "c", "c"]), encoder.condition(["a", "b", "c", "c"])
    assert inner.prompts == ["a", "b", "c", "c"]
    assert torch.equal(once.tensors["text"], twice.tensors["text"])


def test_a_store_keeps_what_came_first_within_its_limit() -> None:
    store: BoundedStore[Latents] = BoundedStore(lambda latents: latents.mean.nbytes, 100)
    values = [Latents(torch.full((2, 1, 1, 5), float(i)), None) for i in range(3)]
    for i, value in enumerate(values):
        store.put(i, value)
        store.put(i, value)
    assert [store.get(i) for i in range(3)] == [values[0], values[1], None]
    assert (1 in store, 2 in store) == (True, False)
