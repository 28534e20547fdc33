"""The kernels, one family a file."""

from attnzoo.kernels.additive import Additive as Additive
from attnzoo.kernels.bigbird import BigBird as BigBird
from attnzoo.kernels.linear import Linear as Linear
from attnzoo.kernels.linformer import Linformer as Linformer
from attnzoo.kernels.local import Local as Local
from attnzoo.kernels.nadaraya_watson import NadarayaWatson as NadarayaWatson
from attnzoo.kernels.nystrom import Nystrom as Nystrom
from attnzoo.kernels.performer import Performer as Performer
from attnzoo.kernels.reformer import Reformer as Reformer
from attnzoo.kernels.sinkhorn import Sinkhorn as Sinkhorn
from attnzoo.kernels.sliding_window import SlidingWindow as SlidingWindow
from attnzoo.kernels.softmax import Softmax as Softmax
from attnzoo.kernels.sparse_transformer import SparseTransformer as SparseTransformer
from attnzoo.kernels.synthesizer import Synthesizer as Synthesizer
