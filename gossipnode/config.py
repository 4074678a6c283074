"""Every option of a node, declared once, with unit, range, default and help.

Flags, environment names, ``gossipnode init`` and ``docs/config.md`` are generated from these
models. Layers, weakest first: defaults, ``node.toml``, environment, flags. The invariant: a
``Config`` that exists is valid; whatever is wrong with one raises ``ConfigError`` that names
where it was written, the key, and what would be right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from gossipnode.options import AlgorithmOptions, Section, option
from gossipnode.registry import DEFAULT_ALGORITHM, algorithm_class, table_spelt_out

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
DEFAULT_PORT = 7946

GraphName = Literal[
    "random",
    "ring",
    "chain",
    "grid",
    "torus",
    "star",
    "complete",
    "hypercube",
    "exponential",
    "erdos_renyi",
    "random_regular",
    "random_geometric",
    "small_world",
    "explicit",
    "one_peer_exponential",
    "base",
    "d_equi_static",
    "u_equi_static",
    "od_equi_dyn",
    "ou_equi_dyn",
    "el_oracle",
    "el_local",
]
# These bring weights of their own; those of the second line change from round to round.
OWN_WEIGHTS = frozenset({"d_equi_static", "u_equi_static"})
DIRECTED = frozenset({"exponential", "d_equi_static"})
CHANGING = frozenset(
    {"one_peer_exponential", "base", "od_equi_dyn", "ou_equi_dyn", "el_oracle", "el_local"}
)
# What arrives is averaged, whoever sends: only the rows add to one.
ROW_STOCHASTIC = frozenset({"el_local"})
TaskName = Literal["linear", "softmax", "mlp", "quadratic"]


class NodeOptions(Section):
    """Who this node is, and where it keeps what must survive a restart."""

    id: str = option(
        "",
        "This node's id; must be its id in peers.toml. Empty: the bundle's, or the host name.",
        flag="--id",
        pattern=r"^$|" + ID_PATTERN,
    )
    data_dir: str = option(
        "",
        "Folder for checkpoints and the boot epoch. Empty: the user's data folder of this system.",
        flag="--data-dir",
    )


class SwarmOptions(Section):
    """What all nodes of one swarm must agree on."""

    name: str = option(
        "swarm",
        "The swarm's name; models of another swarm are refused.",
        flag="--swarm",
        pattern=ID_PATTERN,
    )
    seed: int = option(
        0,
        "Seed of the first model, the partition, random graphs and (with the node's place in the "
        "peer list) the batches; the same on every node.",
        flag="--seed",
        ge=0,
        le=2**53,
    )
    peers: str = option(
        "",
        "Path of peers.toml, relative to this file. The order of its entries places the nodes in "
        "the graph, so it is the same file on every node.",
        flag="--peers",
    )


class TaskOptions(Section):
    """What is learnt."""

    kind: TaskName = option("softmax", "The model and its loss.", flag="--task")
    hidden: tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...] = option(
        (64,), "Sizes of the hidden layers of `mlp`.", unit="units", max_length=32
    )
    l2: float = option(
        0.0, "L2 penalty: adds l2/2·‖params‖² to the loss.", flag="--l2", ge=0.0, le=1e6
    )
    dtype: Literal["float32", "float64", "float16", "bfloat16"] = option(
        "float32",
        "Number format of params, in memory and on the wire. float16 and bfloat16 halve both; "
        "training and merging compute in float32 and round once. bfloat16 needs the extra "
        "gossipnode[bfloat16].",
        flag="--dtype",
    )


class DataOptions(Section):
    """What it is learnt from."""

    source: str = option(
        "digits",
        "digits (embedded), idx:DIR (MNIST files), npz:FILE (arrays x, y), csv:FILE, parquet:FILE. "
        "A relative path is relative to where the command is run.",
        flag="--data",
    )
    label: str = option("", "Name of the label column, for csv and parquet.", flag="--label")
    classes: tuple[str, ...] = option(
        (),
        "All class names, in order. Needed where nodes read their own files and some file may "
        "lack a class: models whose classes differ refuse each other.",
    )
    test_fraction: float = option(
        0.2, "Share of the samples kept out of training to measure accuracy.", ge=0.0, le=0.9
    )
    split_seed: int = option(0, "Seed of the shuffle before the split.", ge=0, le=2**53)
    standardize: str = option(
        "none",
        "none, local (zero mean and unit variance, measured on the training samples) or the path "
        "of a JSON statistics file that all nodes share, relative to where the command is run.",
        flag="--standardize",
    )
    partition: str = option(
        "iid",
        "How nodes divide a common file: iid, dirichlet:ALPHA, shards:K, classes:K, quantity:BETA; "
        "sample:K lets each node draw K samples for itself.",
        flag="--partition",
    )
    share: str = option(
        "auto",
        "Which share of a common file is this node's: auto (its place in the peer list), all "
        "(the file is this node's own) or I/N (share I of N, counted from 0).",
        flag="--share",
        pattern=r"^(auto|all|\d{1,6}/\d{1,6})$",
    )


class TrainingOptions(Section):
    """Local stochastic gradient descent."""

    local_steps: int = option(
        5,
        "Local steps between two exchanges (the lectures' τ). More: fewer bytes, more drift.",
        unit="steps",
        flag="--local-steps",
        ge=0,
        le=1_000_000,
    )
    batch_size: int = option(
        32,
        "Samples a step; 0 takes all of the node's samples.",
        unit="samples",
        flag="--batch-size",
        ge=0,
        le=10_000_000,
    )
    learning_rate: float = option(
        0.1, "Step size (the lectures' η).", flag="--learning-rate", gt=0.0, le=1e6
    )
    momentum: float = option(0.0, "Heavy-ball momentum β.", flag="--momentum", ge=0.0, lt=1.0)
    nesterov: bool = option(False, "Nesterov's form of momentum.")
    schedule: Literal["constant", "step", "inverse_sqrt", "cosine"] = option(
        "constant", "How the learning rate changes with the local step.", flag="--schedule"
    )
    schedule_steps: int = option(
        1000,
        "step: steps between two cuts; inverse_sqrt: its time scale; cosine: its length.",
        unit="steps",
        ge=1,
        le=2**53,
    )
    schedule_factor: float = option(
        0.5,
        "step: the factor of a cut; cosine: the share of the rate that is left.",
        ge=0.0,
        le=1.0,
    )


def _named(value: Any) -> Any:
    """Read a table as the options of the algorithm that it names."""
    if not isinstance(value, Mapping):
        return value
    table = table_spelt_out({"name": DEFAULT_ALGORITHM, **value})
    return algorithm_class(table["name"]).Options.model_validate(table)


class TopologyOptions(Section):
    """Who talks to whom, and with what weight. Options that a graph has no use for are ignored."""

    graph: GraphName = option(
        "ring",
        "The graph, or the sequence of graphs, one a round, that the nodes talk along (see "
        "docs/topologies.md); random: any peer (gossip only).",
        flag="--topology",
    )
    weights: Literal["auto", "metropolis", "uniform", "max_degree", "best_constant"] = option(
        "auto",
        "w_ij of an edge. metropolis: 1/(1+max(d_i,d_j)); uniform: 1/(1+d_max); max_degree: 1/n; "
        "best_constant: 2/(λ_max+λ_2) of the Laplacian; auto: metropolis, or uniform where the "
        "graph is directed, or the sequence's own. Only el_local's are not doubly stochastic.",
        flag="--weights",
    )
    lazy: bool = option(False, "Mix with (I + W)/2: slower, and no negative eigenvalue.")
    degree: int = option(
        4, "Degree of random_regular and small_world.", unit="neighbours", ge=1, le=100_000
    )
    probability: float | None = option(
        None, "Edge probability of erdos_renyi; unset: 2 ln n / n.", gt=0.0, le=1.0
    )
    rows: int | None = option(
        None, "Rows of grid and torus; unset: as square as n allows.", ge=1, le=100_000
    )
    radius: float | None = option(
        None, "random_geometric: who is nearer on a unit square talks; unset: √(2 ln n / n).",
        gt=0.0, le=1.5,
    )  # fmt: skip
    rewiring: float | None = option(
        None, "Share of small_world's edges that lead far; unset: 0.1.", ge=0.0, le=1.0
    )
    peers: int | None = option(
        None, "base: at most so many neighbours a round; unset: 1.", unit="peers", ge=1, le=100_000
    )
    draws: int | None = option(
        None,
        "Random shifts in d_equi_static and u_equi_static; unset: ⌈log₂ n⌉.",
        unit="shifts",
        ge=1,
        le=100_000,
    )
    step: float | None = option(
        None, "η of od_equi_dyn and ou_equi_dyn: how much the peer counts; unset: 0.5.",
        gt=0.0, le=1.0,
    )  # fmt: skip
    sends: int | None = option(
        None,
        "el_oracle and el_local: peers that a node sends to in a round; unset: ⌊log₂ n⌋.",
        unit="peers",
        ge=1,
        le=100_000,
    )
    neighbours: dict[str, tuple[str, ...]] = option(
        {},
        "explicit: whom each node sends to, by id; unless `directed`, an edge is listed at both "
        "its ends.",
    )
    edges: str = option(
        "",
        "explicit, in place of `neighbours`: path of an edge list, relative to this file; two ids "
        "a line, # begins a comment.",
    )
    directed: bool = option(False, "explicit: edges lead one way, from a node to its neighbours.")

    @property
    def changes(self) -> bool:
        """Whether the graph is another one each round."""
        return self.graph in CHANGING

    @property
    def has_own_weights(self) -> bool:
        """Whether no rule gives the weights."""
        return self.graph in OWN_WEIGHTS or self.changes

    @model_validator(mode="after")
    def _fits_together(self) -> TopologyOptions:
        if self.has_own_weights and self.weights != "auto":
            raise ValueError(
                f"topology.weights is {self.weights}, but {self.graph} has its own weights; leave "
                "weights at auto, or choose a graph such as torus or exponential"
            )
        if self.graph == "explicit" and bool(self.neighbours) == bool(self.edges):
            raise ValueError(
                "topology.graph explicit needs its edges once: the table [topology.neighbours], "
                "or topology.edges, the path of an edge list"
            )
        return self


class CodecOptions(Section):
    """What makes messages smaller. Each algorithm takes the codecs that are sound for it."""

    name: Literal[
        "none", "topk", "randomk", "sign", "qsgd", "uniform", "float16", "bfloat16", "lowrank"
    ] = option(
        "none",
        "The codec (docs/compression.md): the largest values, random ones, signs, stochastic "
        "levels, stochastic bits, 16-bit floats, or products of thin matrices. Differences are "
        "made smaller; models only where that loses nothing.",
        flag="--codec",
    )
    fraction: float = option(
        0.01, "topk and randomk: share of the values that is sent.", flag="--codec-fraction",
        gt=0.0, le=1.0,
    )  # fmt: skip
    bits: int = option(
        0,
        "uniform: bits of a value, 1 to 8; unset: 8. topk: bits of each value sent, 1 (its sign), "
        "4, 8, 16 or 32; unset: 32, 64 of float64 params.",
        unit="bits",
        flag="--codec-bits",
        ge=0,
        le=64,
    )
    adaptive: bool = option(
        False,
        "uniform, with choco: choose bits from 2, 4 and 8 by how fast this node computes and "
        "sends, beside its neighbours.",
        flag="--codec-adaptive",
    )
    levels: int = option(
        16, "qsgd: levels of a magnitude (s).", unit="levels", flag="--codec-levels", ge=1, le=127
    )
    rank: int = option(
        2, "lowrank and powersgd: columns of the thin matrices.",
        unit="columns", flag="--codec-rank", ge=1, le=1024,
    )  # fmt: skip
    feedback: bool = option(
        True,
        "Send what an earlier message left out with the next one (error feedback), where "
        "differences to a common model are sent. Clients of federated and fedbuff can do without "
        "it where the codec is right on average: qsgd, randomk or uniform.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> CodecOptions:
        allowed = {"uniform": range(9), "topk": (0, 1, 4, 8, 16, 32, 64)}.get(self.name)
        if allowed is not None and self.bits not in allowed:
            raise ValueError(
                f"codec.bits is {self.bits}, but {self.name} takes "
                + ("1 to 8" if self.name == "uniform" else "1, 4, 8, 16 or 32")
            )
        if self.adaptive and self.name != "uniform":
            raise ValueError(
                f"codec.adaptive chooses the bits of uniform, and codec.name is {self.name}"
            )
        return self


class NetworkOptions(Section):
    """The port, and the limits on what comes through it."""

    bind: str = option(
        "127.0.0.1",
        "Address to listen on; anything but loopback needs a bundle, or `insecure`.",
        flag="--bind",
        min_length=1,
        max_length=255,
    )
    port: int = option(
        DEFAULT_PORT, "Port to listen on; 0 takes a free one.", flag="--port", ge=0, le=65_535
    )
    advertise: str = option(
        "",
        "URL under which peers reach this node. Empty: its entry in peers.toml, else bind:port.",
        flag="--advertise",
    )
    insecure: bool = option(
        False,
        "Allow other addresses than loopback, without encryption and without knowing who is "
        "there. For networks that you trust alone.",
        flag="--insecure",
    )
    status_bind: str = option(
        "127.0.0.1",
        "With trust: address of a second listener, plain and read-only, for status, metrics, "
        "probes and dashboard. Whoever reaches it may read them.",
        flag="--status-bind",
        min_length=1,
        max_length=255,
    )
    status_port: int | None = option(
        None,
        "With trust: the port of that listener; unset: the one after `port`, or where that is 0 a "
        "free one.",
        flag="--status-port",
        ge=0,
        le=65_535,
    )
    handshake_timeout_s: float = option(
        10.0, "With trust: time for one TLS handshake of a peer.", unit="s", gt=0, le=3600
    )
    push_timeout_s: float = option(
        30.0, "Time for one push, connection included.", unit="s", gt=0, le=86_400
    )
    hosts: tuple[Annotated[str, Field(min_length=1, max_length=253)], ...] = option(
        (),
        "Names under which people and programs may read this node's pages, besides its id, the "
        "name in its address and numbers: a web page must not read them under a name of its own.",
        max_length=64,
    )
    # One that has not asked for anything holds 30 KiB (aiohttp's parser and handler), one inside a
    # header 16 KiB more: below 64 MiB for all. Descriptors: with 900 lanes below 4,096.
    connections_max: int = option(
        1024,
        "Connections at once that are no lanes; for one more, that goes which has been silent "
        "longest.",
        unit="connections",
        ge=1,
        le=10**6,
    )
    # 127 peers of a swarm on one machine, each with a lane in the making and a push by POST.
    connections_per_address_max: int = option(
        256,
        "Of these, and of lanes, so many each from one address.",
        unit="connections",
        ge=1,
        le=10**6,
    )
    # 16 KiB in 10 s are 1.6 kB/s: a modem sends a header of 400 bytes in 0.3 s.
    header_timeout_s: float = option(
        10.0,
        "Time from the beginning of a connection, or of a request, to the end of its header.",
        unit="s",
        gt=0,
        le=3600,
    )
    # Peers end their idle connections after 10 s: who closes first must not be this end, or a push
    # would meet a connection that is just closing.
    idle_timeout_s: float = option(
        14.0, "Time without a request after which a connection is closed.", unit="s", gt=0, le=3600
    )
    # A push has some 300 bytes of header, a browser 1 KiB, proxies add cookies of other sites.
    http_header_bytes_max: int = option(
        16 * 2**10,
        "Bytes of one HTTP header, all its lines together.",
        unit="bytes",
        ge=1024,
        le=2**20,
    )
    # 100 MB in 60 s are 1.7 MB/s: for models that large over slower lines, set it higher.
    body_timeout_s: float = option(60.0, "Time for one arriving body.", unit="s", gt=0, le=86_400)
    # A tenth of a good modem. It holds the memory of its model meanwhile.
    body_rate_min: float = option(
        1600.0,
        "Least mean rate of a body in any 10 s of its coming.",
        unit="bytes/s",
        ge=0,
        le=10**9,
    )
    # Two models of 25 M params and the one under way; 750 of 85 k.
    inflight_bytes_max: int = option(
        256 * 2**20,
        "Memory for bodies that are arriving; past it peers are told to come again (503). One "
        "body is always let in.",
        unit="bytes",
        ge=0,
        le=2**50,
    )
    lanes: bool = option(
        True,
        "Push over lanes, and let peers open some; without them every push is a POST.",
    )
    lane_idle_s: float = option(
        300.0, "Time without a push after which a lane is closed.", unit="s", gt=0, le=86_400
    )
    peers_max: int = option(
        1024,
        "Peers learnt besides those of the peer list.",
        unit="peers",
        ge=1,
        le=10**6,
    )


class TrustOptions(Section):
    """Who belongs to the swarm (docs/security.md). Without a bundle nobody is asked."""

    bundle: str = option(
        "",
        "Path of this node's bundle, relative to this file: key, certificate, whom to trust, the "
        "swarm's name, the node's id and seeds.",
        flag="--bundle",
    )
    revocations: str = option(
        "",
        "Path of a list of revocations, relative to this file, read when it changes: the "
        "authority's revocations.txt. Nodes tell each other the newest anyway.",
    )


class RunOptions(Section):
    """How long, and what is measured on the way."""

    rounds: int = option(
        0,
        "Rounds (periods of gossip) to run; 0: until stopped.",
        unit="rounds",
        flag="--rounds",
        ge=0,
        le=2**53,
    )
    duration_s: float = option(
        0.0, "Time to run; 0: until stopped.", unit="s", flag="--duration-s", ge=0, le=10**9
    )
    linger: bool = option(
        False, "Keep serving the model when the rounds are done, until stopped.", flag="--linger"
    )
    evaluate_every: int = option(
        10,
        "Rounds between two measurements of loss and accuracy; 0: only at the end.",
        unit="rounds",
        flag="--evaluate-every",
        ge=0,
        le=2**53,
    )
    history_max: int = option(
        10_000,
        "Measurements kept in memory; older ones are thinned out.",
        unit="rows",
        ge=2,
        le=10**7,
    )
    drain_deadline_s: float = option(
        20.0, "Time for a clean stop, all in all.", unit="s", ge=0, le=3600
    )


class CheckpointOptions(Section):
    """What survives a power cut."""

    enabled: bool = option(True, "Write checkpoints; without them a restart begins anew.")
    every_s: float = option(
        30.0,
        "Time between two checkpoints; what was merged since the last one is lost in a crash. "
        "0: only when stopping.",
        unit="s",
        flag="--checkpoint-every-s",
        ge=0,
        le=86_400,
    )
    keep: int = option(3, "Checkpoints kept.", unit="files", ge=1, le=1000)
    fresh: bool = option(
        False, "Begin anew although checkpoints exist (they are kept).", flag="--fresh"
    )


class LogOptions(Section):
    """What the node says."""

    level: Literal["debug", "info", "warning", "error"] = option(
        "info", "Least level that is written.", flag="--log-level"
    )
    format: Literal["text", "json"] = option(
        "text", "One line an event, for people or for machines.", flag="--log-format"
    )
    # A reason for a refusal has up to 512 characters; a line with ten such fields 5 KiB.
    value_chars_max: int = option(
        512, "Longest value in a line; what is longer is cut.", unit="characters", ge=64, le=65_536
    )


class Config(Section):
    """All options of one node. Construct it directly, or with ``configfile.load_config``."""

    node: NodeOptions = NodeOptions()
    swarm: SwarmOptions = SwarmOptions()
    task: TaskOptions = TaskOptions()
    data: DataOptions = DataOptions()
    training: TrainingOptions = TrainingOptions()
    algorithm: Annotated[SerializeAsAny[AlgorithmOptions], BeforeValidator(_named)] = Field(
        default_factory=lambda: algorithm_class(DEFAULT_ALGORITHM).Options()
    )
    topology: TopologyOptions = TopologyOptions()
    codec: CodecOptions = CodecOptions()
    network: NetworkOptions = NetworkOptions()
    trust: TrustOptions = TrustOptions()
    run: RunOptions = RunOptions()
    checkpoint: CheckpointOptions = CheckpointOptions()
    log: LogOptions = LogOptions()

    @model_validator(mode="after")
    def _combinations_make_sense(self) -> Config:
        for complaint in _unmet(self):
            raise ValueError(complaint)
        return self


def _unmet(config: Config) -> Iterator[str]:
    """Yield what the algorithm needs and the config does not give, with what would be right."""
    needs, name, topology = config.algorithm.needs(), config.algorithm.called, config.topology
    graph = topology.graph
    if needs.graph and graph == "random":
        yield (
            f"algorithm {name} needs fixed neighbours, but topology.graph is random; choose "
            "ring, torus, complete, … or algorithm gossip"
        )
    steps = config.training.local_steps if "local_steps" in config.training.model_fields_set else 1
    if needs.gradient and steps != 1:
        yield (
            f"algorithm {name} takes one gradient a round, but training.local_steps is {steps}: "
            "change that line of [training] to local_steps = 1 (--local-steps 1), or leave it "
            "out; a larger training.batch_size uses more samples"
        )
    directed = topology.directed or graph in DIRECTED
    if (needs.symmetric and directed) or (needs.static and topology.changes):
        yield (
            f"algorithm {name} needs a W that is symmetric and the same in every round, which "
            f"that of {graph} is not; choose ring, torus, hypercube, random_regular, …"
        )
    if needs.weights == "doubly" and graph in ROW_STOCHASTIC:
        yield (
            f"algorithm {name} needs a doubly stochastic W, and the columns of that of {graph} do "
            "not add to one; choose el_oracle, ring, torus, …"
        )
    if not needs.rounds and topology.changes:
        yield (
            f"topology.graph {graph} changes with the round, and algorithm {name} has no rounds "
            "in common; choose random or a graph that stays, such as random_regular or "
            "d_equi_static"
        )
    if needs.weights == "column" and config.task.dtype in ("float16", "bfloat16"):
        yield (
            f"algorithm {name} adds up all that it hands out, and {config.task.dtype} cannot hold "
            "such sums; choose task.dtype float32 or float64"
        )
    yield from _unsound(config)
    if needs.weights == "any" and topology.lazy:
        yield (
            f"topology.lazy is for algorithms that mix with W, which {name} does not; "
            "algorithm.merge_weight of gossip is how much a model counts"
        )


def _unsound(config: Config) -> Iterator[str]:
    """Yield why the codec cannot be used here, and what would serve."""
    codec, algorithm, dtype = config.codec, config.algorithm, config.task.dtype
    if codec.name == "none":
        return
    if codec.name not in algorithm.codecs:
        reason = algorithm.unsound(codec.name)
        yield f"codec {codec.name} is not for algorithm {algorithm.called}: {reason}"
    elif not codec.feedback and codec.name not in algorithm.unbiased:
        reason = algorithm.unsound_without_feedback(codec.name)
        yield f"codec.feedback = false is not for algorithm {algorithm.called} here: {reason}"
    elif codec.adaptive and not algorithm.adapts_bits:
        yield (
            f"codec.adaptive is not for algorithm {algorithm.called}, whose nodes do not tell each "
            "other how fast they are: set codec.bits, or choose algorithm choco"
        )
    if dtype in ("float16", "bfloat16"):
        yield (
            f"task.dtype is {dtype}, which codec {codec.name} does not take; choose task.dtype "
            "float32, or leave [codec] out: such params have half the bytes already"
        )


class PeerEntry(Section):
    """One node of the swarm as ``peers.toml`` lists it."""

    id: str = option(..., "The node's id.", pattern=ID_PATTERN)
    name: str = option(
        "", "Its name for people, where the id is that of a key.", pattern=r"^$|" + ID_PATTERN
    )
    address: str = option(
        ..., "Where it is reached: http://HOST:PORT, https over TLS.", max_length=512
    )

    @field_validator("address")
    @classmethod
    def _is_an_origin(cls, address: str) -> str:
        from urllib.parse import urlsplit

        parts = urlsplit(address)
        try:
            port = parts.port
        except ValueError:
            port = None
        surplus = parts.path.strip("/") or parts.query or parts.fragment or parts.username
        if parts.scheme not in ("http", "https") or not parts.hostname or port is None or surplus:
            raise ValueError(f"{address!r} is no address; write it as http://HOST:PORT")
        return address.rstrip("/")
