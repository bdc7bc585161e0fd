"""Makes the file of a recipe, measures it, and if it fails tries what may save it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from exporters.calibration import Calibration
from exporters.convert import Converted, Converter, scheme_of
from exporters.diagnose import likely_cause, unlike_calibration
from exporters.finetune import FineTuning, finetuned
from exporters.graph import Graph
from exporters.ladder import Measured, Probes, Runner, measure
from exporters.layers import layer_errors
from exporters.litert import LitertFiles
from exporters.manifest import InputSpec, LayerError, OutputSpec
from exporters.mixed import fewest_float
from exporters.parity import probe_pixels, reference_embeddings
from exporters.quantize import STATIC, observe
from exporters.recipes import Recipe
from exporters.retrieval import Judge
from exporters.runtimes import PREPROCESS_KEY, SPACE_KEY
from exporters.signature import signature_of
from exporters.source import Source

NATURAL_QUERIES = 64  # of the retrieval test: int8 files are compared on pictures like those to be embedded
LAYER_PICTURES = 32  # that each layer's error is measured on: a standard error of a few per cent of it


@dataclass(frozen=True)
class Made:
    """A file with its measurements; ``cause`` is what an error would advise, ``attempts`` how many were measured."""

    converted: Converted
    measured: Measured
    layers: tuple[LayerError, ...]
    cause: str
    fine_tuned: bool
    attempts: int


class FileMaker:
    """Makes one file after another of the same network, on the same pictures, in the same workers."""

    def __init__(
        self,
        source: Source,
        network: Graph | LitertFiles,
        golden: np.ndarray,
        calibration: Calibration | None,
        judge: Judge | None,
        workers: Mapping[str, Runner],
        allow: frozenset[str],
        finetuning: FineTuning | None,
        say: Callable[[str], object],
    ) -> None:
        self.source, self.network, self.calibration = source, network, calibration
        self.judge, self.workers, self.allow = judge, workers, allow
        self.finetuning, self.say = finetuning, say
        self.attempts = 0  # files measured for the recipe at hand
        self.metadata = {SPACE_KEY: source.space.id, PREPROCESS_KEY: source.preprocess.fingerprint()}
        spec = source.preprocess
        self.picture = InputSpec(height=spec.height, width=spec.width, channels=spec.channels)
        self.probes = self._probes(golden, probe_pixels(self.picture.shape))
        natural = [] if calibration is None else [calibration.held_back]
        self.queries = None
        if judge is not None:
            numbers = np.arange(len(judge.test.protocol.query_ids))
            spread = np.linspace(0, len(numbers) - 1, min(NATURAL_QUERIES, len(numbers))).astype(int)
            self.queries = judge.test.read(numbers[spread])
            natural.append(self.queries)
        self.natural = self._probes(golden, *natural)

    def _probes(self, golden: np.ndarray, *others: np.ndarray) -> Probes:
        """The golden pictures and the others, but those that are among the golden ones."""
        known = {picture.tobytes() for picture in golden}
        more = [picture[None] for part in others for picture in part if picture.tobytes() not in known]
        pixels = np.concatenate([golden, *more])
        vectors = reference_embeddings(self.source.network, pixels, self.source.preprocess)
        return Probes(pixels, vectors, len(golden))

    def make(self, recipe: Recipe) -> Made:
        """The file of a recipe: as it is, else with layers in float, else from a fine-tuned student."""
        self.attempts = 0
        converter = Converter(recipe, self.network, self.metadata, self.calibration)
        tried = self._attempt(recipe, converter)
        if isinstance(self.network, LitertFiles):  # made elsewhere, of layers that are not known here
            return self._made(recipe, tried, ())
        graph = self.network
        if not recipe.calibrated or self.calibration is None:
            return self._made(recipe, tried, () if tried[1].passed else self._layers(graph, converter))
        layers = self._layers(graph, converter)
        if tried[1].passed:
            return self._made(recipe, tried, layers)
        if self.queries is not None:
            unlike = unlike_calibration(graph, self.calibration.pixels, self.queries)
            if unlike is not None:  # nothing below would mend that
                return self._made(recipe, tried, layers, cause=unlike)
        tried = self._mixed(recipe, converter, layers, tried)
        measured = tried[1]
        if measured.passed or self.finetuning is None:
            return self._made(recipe, tried, layers)
        self.say(f"{recipe.format} {recipe.precision}: {measured.reason()}; fine-tuning")
        graph = finetuned(graph, converter.scheme or STATIC, self.calibration.pixels, self.finetuning, say=self.say)
        converter = Converter(recipe, graph, self.metadata, self.calibration)
        layers = self._layers(graph, converter)
        tried = self._mixed(recipe, converter, layers, self._attempt(recipe, converter))
        return self._made(recipe, tried, layers, fine_tuned=True)

    def _made(
        self,
        recipe: Recipe,
        tried: tuple[Converted, Measured],
        layers: tuple[LayerError, ...],
        *,
        cause: str | None = None,
        fine_tuned: bool = False,
    ) -> Made:
        converted, measured = tried
        cause = self._cause(recipe, converted, measured) if cause is None else cause
        return Made(converted, measured, layers, cause, fine_tuned, self.attempts)

    def _layers(self, graph: Graph, converter: Converter) -> tuple[LayerError, ...]:
        """Each layer's error under the recipe's rounding; none for recipes of floats.

        On held-back calibration pictures where there are some: queries choose no layers.
        """
        if converter.scheme is None:
            return ()
        ranges, pixels = {}, self.natural.pixels
        if self.calibration is not None:
            ranges, pixels = observe(graph, self.calibration.pixels), self.calibration.held_back
        return layer_errors(graph, ranges, converter.scheme, pixels[-LAYER_PICTURES:])

    def _mixed(
        self,
        recipe: Recipe,
        converter: Converter,
        layers: Sequence[LayerError],
        made: tuple[Converted, Measured],
    ) -> tuple[Converted, Measured]:
        """``made`` if it passed, else the file with the fewest layers in float with which it passes."""
        if made[1].passed or len(layers) < 2:
            return made
        self.say(f"{recipe.format} {recipe.precision}: {made[1].reason()}; keeping layers in float")
        names = [layer.name for layer in layers]
        return fewest_float(names, lambda keep: self._attempt(recipe, converter, keep), lambda tried: tried[1].passed)

    def _attempt(
        self, recipe: Recipe, converter: Converter, keep_float: Sequence[str] = ()
    ) -> tuple[Converted, Measured]:
        self.attempts += 1
        converted = converter.convert(keep_float)
        probes = self.natural if recipe.calibrated else self.probes
        output = OutputSpec(dim=self.source.space.dim)
        expected = signature_of(converted.input, converted.output, self.picture, output)
        return converted, measure(
            converted.data, recipe, expected, probes, self.workers, judge=self.judge, allow=self.allow
        )

    def _cause(self, recipe: Recipe, converted: Converted, measured: Measured) -> str:
        if measured.passed:
            return ""
        probes = self.natural if recipe.calibrated else self.probes
        network, spec = self.source.network, self.source.preprocess
        rounded = scheme_of(recipe) is not None
        return likely_cause(measured, probes, network, spec, rounded=rounded, step=converted.output.scale)
