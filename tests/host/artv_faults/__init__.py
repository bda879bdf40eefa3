"""A pack for tests only: nodes that give our nodes what only a larger machine or another model would."""

import sys
import time
import weakref

import comfy.model_management as memory
import torch
from server import PromptServer

# The nodes must do without what the host does not bring; here it may be installed beside it all the same.
for missing in ("open_clip", "diffusers", "k_diffusion"):
    sys.modules[missing] = None


class ARTVTestOutOfMemory:
    """Passes a model on; its `after`-th evaluation from now raises what a full GPU raises."""

    CATEGORY = "ARTV/tests"
    FUNCTION = "execute"
    RETURN_TYPES = ("ARTV_MODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 (the host's name)
        return {"required": {"model": ("ARTV_MODEL",), "after": ("INT", {"default": 3, "min": 1})}}

    def execute(self, model, after):
        left = [after]

        def count(*_):
            left[0] -= 1
            if not left[0]:
                handle.remove()
                raise torch.cuda.OutOfMemoryError("out of memory (injected by a test)")

        handle = model.model.noise.register_forward_pre_hook(count)
        return (model,)


class ARTVTestNoRoom:
    ""

    """Passes a model on; the next time the host loads it, that takes a second and fails: there is no room for it."""

    CATEGORY = "ARTV/tests"
    FUNCTION = "execute"
    RETURN_TYPES = ("ARTV_MODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 (the host's name)
        return {"required": {"model": ("ARTV_MODEL",)}}

    def execute(self, model):
        load = memory.load_models_gpu

        def refuse(models, *more, **options):
            if not any(one.model is model.model for one in models):
                return load(models, *more, **options)
            memory.load_models_gpu = load
            time.sleep(1)
            raise torch.cuda.OutOfMemoryError("out of memory (injected by a test)")

        memory.load_models_gpu = refuse
        return (model,)


class ARTVTestSlow:
    """Passes a model on; each of its evaluations takes `seconds` longer in a prompt that has this node. The host keeps
    the model for other prompts."""

    CATEGORY = "ARTV/tests"
    FUNCTION = "execute"
    RETURN_TYPES = ("ARTV_MODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 (the host's name)
        return {"required": {"model": ("ARTV_MODEL",), "seconds": ("FLOAT", {"default": 0.2})}}

    def execute(self, model, seconds):
        network = model.model.noise
        if network not in SLOW:
            SLOW.add(network)
            network.register_forward_pre_hook(lambda *_: time.sleep(asked_seconds()))
        return (model,)


SLOW = weakref.WeakSet()


def asked_seconds():
    """Of the nodes `ARTVTestSlow` of the prompt that runs."""
    ((_, _, graph, *_),) = PromptServer.instance.prompt_queue.currently_running.values()
    return sum(node["inputs"]["seconds"] for node in graph.values() if node["class_type"] == "ARTVTestSlow")


class ARTVTestWideText:
    """Text as an encoder of another width gives it."""

    CATEGORY = "ARTV/tests"
    FUNCTION = "execute"
    RETURN_TYPES = ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 (the host's name)
        return {"required": {}}

    def execute(self):
        return ([[torch.zeros(1, 77, 1024), {}]],)


class ARTVTestPlotLibrary:
    """Passes latents on; from now on matplotlib can be imported, or it cannot."""

    CATEGORY = "ARTV/tests"
    FUNCTION = "execute"
    RETURN_TYPES = ("LATENT",)
    HIDDEN = {}  # noqa: RUF012

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 (the host's name)
        return {"required": {"latent": ("LATENT",), "there": ("BOOLEAN", {"default": True})}}

    def execute(self, latent, there):
        if there:
            sys.modules.pop("matplotlib", None)
            sys.modules.update(self.HIDDEN)
            self.HIDDEN.clear()
        else:
            names = [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]
            self.HIDDEN.update({name: sys.modules.pop(name) for name in names})
            sys.modules["matplotlib"] = None
        return (latent,)


NODE_CLASS_MAPPINGS = {
    "ARTVTestNoRoom": ARTVTestNoRoom,
    "ARTVTestOutOfMemory": ARTVTestOutOfMemory,
    "ARTVTestPlotLibrary": ARTVTestPlotLibrary,
    "ARTVTestSlow": ARTVTestSlow,
    "ARTVTestWideText": ARTVTestWideText,
}
