//! How much of anything a file may hold. They are far above what networks need, and keep a damaged file from taking all memory.

/// Bytes of a file: protobuf's own limit.
pub const FILE: u64 = 2 << 30;
/// Bytes that may be made of a file, its parameters as they are planned among them: these for any file …
pub const MEMORY: u64 = 512 << 20;
/// … and so many for each of its bytes: weights in half precision are converted, turned and packed.
pub const GROWTH: u64 = 8;
/// Nodes of the graph.
pub const NODES: usize = 20_000;
/// Tensors of the graph.
pub const TENSORS: usize = 20_000;
/// Attributes of a node, and its inputs and outputs.
pub const OF_NODE: usize = 1024;
/// Numbers of an attribute.
pub const NUMBERS: usize = 1 << 16;
/// Inputs, outputs, attributes and their numbers of all nodes together.
pub const OF_NODES: usize = 1 << 22;
/// Dimensions of a tensor.
pub const RANK: usize = 10;
/// Examples of a batch of fixed size.
pub const BATCH: usize = 1 << 16;
/// Elements of one tensor, or of a shape.
pub const ELEMENTS: usize = 1 << 28;
/// Channels of a value, or its elements where it has no pixels.
pub const CHANNELS: usize = 1 << 24;
/// Elements of all values of an example that are needed at some time, as they are planned: with whole blocks of [`BLOCK`] channels.
pub const LIVE: usize = 1 << 28;
/// The engine's blocks of channels.
pub const BLOCK: usize = 16;
/// Elements of all values of an example together.
pub const VALUES: usize = 1 << 31;
/// Elements of one tensor that is computed from constants.
pub const FOLDED: usize = 1 << 25;
/// Elements of all constants that are read or written while others are computed from them: some seconds of work.
pub const WORK: usize = 1 << 30;
/// Zeros on one side of a map.
pub const PADDING: usize = 1 << 12;
