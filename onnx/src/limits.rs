//! How much of anything a file may hold. They are far above what networks need, and keep a damaged file from taking all memory.

/// Bytes of a file: protobuf's own limit.
pub const FILE: u64 = 2 << 30;
/// Nodes of the graph.
pub const NODES: usize = 20_000;
/// Tensors of the graph.
pub const TENSORS: usize = 20_000;
/// Attributes of a node, and its inputs and outputs.
pub const OF_NODE: usize = 1024;
/// Dimensions of a tensor.
pub const RANK: usize = 10;
/// Elements of one value of an example, or of one tensor.
pub const ELEMENTS: usize = 1 << 28;
/// Elements of all values of an example together.
pub const VALUES: usize = 1 << 29;
/// Elements of one tensor that is computed from constants, and of all of them.
pub const FOLDED: usize = 1 << 25;
/// See [`FOLDED`].
pub const ALL_FOLDED: usize = 1 << 28;
/// Zeros on one side of a map.
pub const PADDING: usize = 1 << 12;
