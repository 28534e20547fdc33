"""The kernels: the one list. A new one is a line here, and its file, whose name is its name everywhere.

They are told, drawn and tested in this order, and have the styles of their places in it: new ones stand at the end.
"""

# ruff: noqa: I001
from attnzoo.kernel import Kernel as _Kernel
from attnzoo.kernels.softmax import Softmax as Softmax
from attnzoo.kernels.nadaraya_watson import NadarayaWatson as NadarayaWatson
from attnzoo.kernels.additive import Additive as Additive
from attnzoo.kernels.sliding_window import SlidingWindow as SlidingWindow
from attnzoo.kernels.bigbird import BigBird as BigBird
from attnzoo.kernels.linear import Linear as Linear
from attnzoo.kernels.performer import Performer as Performer
from attnzoo.kernels.linformer import Linformer as Linformer
from attnzoo.kernels.nystrom import Nystrom as Nystrom
from attnzoo.kernels.local import Local as Local
from attnzoo.kernels.reformer import Reformer as Reformer
from attnzoo.kernels.sinkhorn import Sinkhorn as Sinkhorn
from attnzoo.kernels.synthesizer import Synthesizer as Synthesizer
from attnzoo.kernels.sparse_transformer import SparseTransformer as SparseTransformer
from attnzoo.kernels.gated_delta import GatedDelta as GatedDelta
from attnzoo.kernels.delta import Delta as Delta
from attnzoo.kernels.gated_linear import GatedLinear as GatedLinear
from attnzoo.kernels.retention import Retention as Retention
from attnzoo.kernels.state_space import StateSpace as StateSpace
from attnzoo.kernels.kimi_delta import KimiDelta as KimiDelta
from attnzoo.kernels.forgetting import Forgetting as Forgetting
from attnzoo.kernels.cosformer import CosFormer as CosFormer
from attnzoo.kernels.based import Based as Based
from attnzoo.kernels.log_linear import LogLinear as LogLinear

KERNELS: dict[str, type[_Kernel]] = {
    x.__module__.rpartition(".")[2]: x
    for x in list(globals().values())
    if isinstance(x, type) and issubclass(x, _Kernel) and x is not _Kernel
}
