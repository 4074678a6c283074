"""Every option of a node, declared once, with unit, range, default and help.

Flags, environment names, ``gossipnode init`` and ``docs/config.md`` are generated from these
models. Layers, weakest first: defaults, ``node.toml``, environment, flags. The invariant: a
``Config`` that exists is valid; whatever is wrong with one raises ``ConfigError`` that names
where it was written, the key, and what would be right.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

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
TaskName = Literal["linear", "softmax", "mlp", "quadratic"]
Staleness = Literal["constant", "polynomial", "hinge", "exponential", "age"]


class Section(BaseModel):
    """One table of ``node.toml``: immutable, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def option(default: Any, help_text: str, *, unit: str = "", flag: str = "", **limits: Any) -> Any:
    """Declare an option: its default, help, unit (SI, or what is counted), flag and limits."""
    extra: dict[str, Any] = {"unit": unit, "flag": flag}
    return Field(default, description=help_text, json_schema_extra=extra, **limits)


class NodeOptions(Section):
    """Who this node is, and where it keeps what must survive a restart."""

    id: str = option(
        "",
        "This node's name; must be its name in peers.toml. Empty: the host name.",
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


class MergeOptions(Section):
    """How much an arriving model counts, by how far it is behind."""

    staleness: Staleness = option(
        "polynomial",
        "Weight by staleness δ: constant 1; polynomial (δ+1)^-a; hinge 1 up to b, then "
        "1/(a(δ-b)+1); exponential e^(-aδ); age: t_m/(t_i+t_m) from the two ages.",
        flag="--staleness",
    )
    staleness_a: float | None = option(
        None,
        "a of the staleness function; polynomial 0.5, hinge 10, exponential 0.1.",
        gt=0,
        le=1e6,
    )
    staleness_b: float | None = option(
        None, "b of the hinge: rounds behind that cost nothing; 4.", unit="rounds", ge=0, le=1e9
    )


class LockstepOptions(Section):
    """How long synchronous rounds wait."""

    deadline_s: float = option(
        10.0,
        "How long a round waits for a neighbour's model before its weight goes to the node itself.",
        unit="s",
        flag="--deadline-s",
        gt=0,
        le=86_400,
    )
    start_deadline_s: float = option(
        60.0,
        "The same for a neighbour that has never been heard of, counted from the start, so that a "
        "swarm may start in any order; deadline_s where that is later.",
        unit="s",
        ge=0,
        le=86_400,
    )


class DpsgdOptions(LockstepOptions, MergeOptions):
    """D-PSGD: synchronous rounds on a graph."""

    name: Literal["dpsgd"] = option("dpsgd", "The algorithm.", flag="--algorithm")
    form: Literal["atc", "cta"] = option(
        "atc",
        "atc: adapt, then combine (send the half-step). cta: combine, then adapt (send before "
        "training; communication overlaps the gradient, but it tolerates smaller steps only).",
        flag="--form",
    )
    late: Literal["merge", "drop"] = option(
        "merge",
        "A model that comes after its round: merge it (its mixing weight times the staleness "
        "weight) or drop it. Both are counted.",
        flag="--late",
    )


class GradientTrackingOptions(LockstepOptions):
    """Gradient tracking: each node follows the mean gradient, so that uneven data do no harm."""

    name: Literal["gradient_tracking"] = option(
        "gradient_tracking", "The algorithm.", flag="--algorithm"
    )
    form: Literal["diging", "dsgt"] = option(
        "dsgt",
        "dsgt: x ← W(x − ηy). diging: x ← Wx − ηy; it bears smaller steps only. Both send two "
        "vectors a round, x and the tracker y.",
        flag="--form",
    )


class CorrectionOptions(LockstepOptions):
    """Bias correction by the previous round: the optimum, for one vector a round."""

    name: Literal["correction"] = option("correction", "The algorithm.", flag="--algorithm")
    form: Literal["d2", "exact_diffusion", "extra"] = option(
        "exact_diffusion",
        "exact_diffusion: mixes with (I + W)/2. d2: mixes with W, faster, and needs every "
        "eigenvalue of W above -1/3. extra: mixes before it steps. All need W symmetric and the "
        "same each round.",
        flag="--form",
    )


class MomentumOptions(LockstepOptions):
    """D-PSGD with momentum that knows of the neighbours."""

    name: Literal["momentum"] = option("momentum", "The algorithm.", flag="--algorithm")
    form: Literal["dmsgd", "decentlam", "qgm"] = option(
        "qgm",
        "dmsgd: each its own heavy ball; with uneven data its bias is 1/(1-β) times as large. "
        "decentlam and qgm (quasi-global momentum): no larger than without momentum.",
        flag="--form",
    )
    beta: float = option(0.9, "β: share of the momentum that stays.", ge=0.0, lt=1.0)
    mu: float = option(
        0.9, "μ of qgm: share of the quasi-global momentum that stays.", ge=0.0, lt=1.0
    )


class GossipOptions(MergeOptions):
    """Gossip learning: asynchronous; train, push to one peer, merge what arrives."""

    name: Literal["gossip"] = option("gossip", "The algorithm.", flag="--algorithm")
    staleness: Staleness = option("age", MergeOptions.model_fields["staleness"].description or "")
    period_s: float = option(
        1.0,
        "Time between two pushes (the lectures' Δ).",
        unit="s",
        flag="--period-s",
        gt=0,
        le=86_400,
    )
    jitter: float = option(
        0.1, "Standard deviation of the period, as a share of it.", ge=0.0, le=0.5
    )
    exchange: Literal["push", "push_pull"] = option(
        "push",
        "push: one way. push_pull: both ends merge, each what the other had.",
        flag="--exchange",
    )
    merge_weight: float = option(
        0.5,
        "Weight of an arriving model before the staleness weight; `age` sets its own.",
        gt=0.0,
        le=1.0,
    )


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


class NetworkOptions(Section):
    """The port, and the limits on what comes through it."""

    bind: str = option(
        "127.0.0.1",
        "Address to listen on; anything but loopback needs `insecure`.",
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
    push_timeout_s: float = option(
        30.0, "Time for one push, connection included.", unit="s", gt=0, le=86_400
    )
    body_timeout_s: float = option(60.0, "Time for one arriving body.", unit="s", gt=0, le=86_400)
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


AlgorithmOptions = Annotated[
    DpsgdOptions | GossipOptions | GradientTrackingOptions | CorrectionOptions | MomentumOptions,
    Field(discriminator="name"),
]


class Config(Section):
    """All options of one node. Construct it directly, or with ``configfile.load_config``."""

    node: NodeOptions = NodeOptions()
    swarm: SwarmOptions = SwarmOptions()
    task: TaskOptions = TaskOptions()
    data: DataOptions = DataOptions()
    training: TrainingOptions = TrainingOptions()
    algorithm: AlgorithmOptions = DpsgdOptions()
    topology: TopologyOptions = TopologyOptions()
    network: NetworkOptions = NetworkOptions()
    run: RunOptions = RunOptions()
    checkpoint: CheckpointOptions = CheckpointOptions()
    log: LogOptions = LogOptions()

    @model_validator(mode="after")
    def _combinations_make_sense(self) -> Config:
        name, graph = self.algorithm.name, self.topology.graph
        if isinstance(self.algorithm, LockstepOptions) and graph == "random":
            raise ValueError(
                f"algorithm {name} needs fixed neighbours, but topology.graph is random; choose "
                "ring, torus, complete, … or algorithm gossip"
            )
        if isinstance(self.algorithm, DpsgdOptions) and self.algorithm.staleness == "age":
            raise ValueError(
                "algorithm.staleness age is for gossip; dpsgd counts rounds: choose constant, "
                "polynomial, hinge or exponential"
            )
        takes_gradients = GradientTrackingOptions | CorrectionOptions | MomentumOptions
        steps = self.training.local_steps if "local_steps" in self.training.model_fields_set else 1
        if isinstance(self.algorithm, takes_gradients) and steps != 1:
            raise ValueError(
                f"algorithm {name} takes one gradient a round, not training.local_steps {steps}: "
                "leave it out or set it to 1; a larger training.batch_size uses more samples"
            )
        if isinstance(self.algorithm, CorrectionOptions) and (
            self.topology.changes or self.topology.directed or graph in DIRECTED
        ):
            raise ValueError(
                f"algorithm {name} needs a W that is symmetric and the same in every round, which "
                f"that of {graph} is not; choose ring, torus, hypercube, random_regular, …"
            )
        if self.algorithm.name == "gossip" and self.topology.changes:
            raise ValueError(
                f"topology.graph {self.topology.graph} changes with the round, and algorithm "
                "gossip has no rounds in common; choose random or a graph that stays, such as "
                "random_regular or d_equi_static"
            )
        if self.algorithm.name == "gossip" and self.topology.lazy:
            raise ValueError(
                "topology.lazy is for dpsgd: gossip has no W; algorithm.merge_weight is how much "
                "a model counts"
            )
        return self


class PeerEntry(Section):
    """One node of the swarm as ``peers.toml`` lists it."""

    id: str = option(..., "The node's name.", pattern=ID_PATTERN)
    address: str = option(..., "Where it is reached: http://HOST:PORT.", max_length=512)

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
        if parts.scheme != "http" or not parts.hostname or port is None or surplus:
            raise ValueError(f"{address!r} is no address; write it as http://HOST:PORT")
        return address.rstrip("/")


def algorithm_classes() -> tuple[type[Section], ...]:
    """Return the option classes of all algorithms, in the order of the union."""
    return get_args(get_args(AlgorithmOptions)[0])
