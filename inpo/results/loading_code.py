"""The lines of Python by which diffusers loads a result, as they stand in its card."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from inpo.compose import WORLD
from inpo.models.base import ADAPTER_FILE
from inpo.models.families import VAE, Family
from inpo.results.bases import Base, Place

MARK = "  # this result"
"""Ends the one line that names the result itself: by it another name is put in its place, and in no other."""
_LITERAL = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_OWN_LINE = re.compile(rf"^(.*?\()({_LITERAL})(.*){re.escape(MARK)}$", re.MULTILINE)
_FILE = re.compile(rf"(?<=weight_name=)({_LITERAL})")


@dataclass(frozen=True)
class Loading:
    """`here`: the result as it is seen from where the lines are run, `file` the one in it that is loaded, as in `Card`.

    `told_settings`, `absent`: as in `Card`.
    """

    form: str
    family: Family
    here: str
    base: Base
    file: str | None = None
    absent: frozenset[str] = frozenset()
    told_settings: bool = False

    @property
    def _is_network(self) -> bool:
        return self.form == self.family.network.name

    def text(self) -> str:
        """All lines, for a form that diffusers loads."""
        own, lines = repr(self.here), [*self._own_parts(), *self._base_parts()]
        if self.form == "single-file":
            settings = f", config={self.base.settings_of.argument}" if self.told_settings else ""
            lines = [f"pipe = {self.family.pipeline}.from_single_file({own}{settings}){MARK}"]
        elif self.form.startswith("lora"):
            lines += [*self._base_pipeline(), f"pipe.load_lora_weights({own}, weight_name={self.file!r}){MARK}"]
        elif self._is_network:
            lines += self._base_pipeline()
        else:
            lines = [f"pipe = {self.family.pipeline}.from_pretrained({own}{self._options()}){MARK}"]
        return "\n".join([*self._imports(lines), "", *lines])

    def _imports(self, lines: list[str]) -> Iterator[str]:
        classes = {self.family.pipeline, self.family.network.class_name, VAE.class_name}
        used = sorted(each for each in classes if any(f"{each}." in line for line in lines))
        yield f"from diffusers import {', '.join(used)}"
        if any(Place(WORLD).argument in line for line in lines):
            yield "\nimport inpo.world"

    def _own_parts(self) -> Iterator[str]:
        if self._is_network:
            inside = f", subfolder={self.file!r}" if self.file else ""
            yield f"network = {self.family.network.class_name}.from_pretrained({self.here!r}{inside}){MARK}"

    def _base_parts(self) -> Iterator[str]:
        """What replaces parts of the base's pipeline; its network is of no use beside the result's own."""
        if self.base.network and not self._is_network:
            yield f"network = {self.family.network.class_name}.from_pretrained({self.base.network.argument})"
        if self.base.vae:
            yield f"vae = {VAE.class_name}.from_pretrained({self.base.vae.argument})"

    def _base_pipeline(self) -> Iterator[str]:
        has_network = self._is_network or self.base.network
        parts = (f", {self.family.network.name}=network" if has_network else "") + (", vae=vae" if self.base.vae else "")
        settings = f", config={self.base.settings.argument}" if self.base.settings else ""
        way = "from_single_file" if self.base.is_file else "from_pretrained"
        yield f"pipe = {self.family.pipeline}.{way}({self.base.pipeline.argument}{settings}{parts}{self._options()})"
        for each in self.base.adapters if not self._is_network else ():
            yield f"pipe.load_lora_weights({each.argument}, weight_name={ADAPTER_FILE!r})"
            yield "pipe.fuse_lora()\npipe.unload_lora_weights()"

    def _options(self) -> str:
        """diffusers wants to be told what is absent, and what is not there has no tokenizer either."""
        pairs = [(name, name.replace("text_encoder", "tokenizer")) for name in sorted(self.absent)]
        return "".join(f", {text}=None, {words}=None" for text, words in pairs)


def on_hub(text: str, to: str, file: str | None) -> str:
    """A card's text with the hub's repository `to` where it named the result itself; `file`: what it is called there, if it is one."""
    found = _OWN_LINE.search(text)
    if found is None:
        return text
    was = str(ast.literal_eval(found[2]))
    own, rest = to, found[3]
    if "from_single_file(" in found[1]:
        own = f"https://huggingface.co/{to}/blob/main/{file or PurePosixPath(was).name}"
    elif file:
        rest = _FILE.sub(lambda _: repr(file), rest)
    text = f"{text[: found.start()]}{found[1]}{own!r}{rest}{MARK}{text[found.end() :]}"
    # The title, if it is still the folder's name.
    title = f"\n# {PurePosixPath(was).parts[0]}\n" if PurePosixPath(was).parts else ""
    return text.replace(title, f"\n# {to.partition('/')[2]}\n", 1) if title else text
