//! The harness of the end-to-end tests: real processes, a real RabbitMQ node, a real S3 API.
//!
//! It knows the contract and the commands' names, and nothing of what is inside them. A test reads
//! like what a person would do: make pictures, start workers, run a command, look at what came out.
//! Tests never depend on the machine's speed: they poll for a condition with a generous limit.

mod amqp;
pub mod bench;
mod broker;
pub mod chaos;
pub mod collector;
mod disk;
mod fleet;
mod folder;
mod models;
pub mod observed;
mod pictures;
mod process;
mod proxy;
mod s3;
pub mod s3_server;
pub mod studies;
mod wait;

pub use amqp::{Amqp, Inbox};
pub use broker::Broker;
pub use disk::SmallDisk;
pub use fleet::{Fleet, Lines};
pub use folder::Folder;
pub use models::{write_fine_model, write_model};
pub use pictures::{CLASSES, Pictures, write_colour, write_folder, write_large};
pub use process::{Process, binary, children_of, json_lines, processor_ms, signal};
pub use proxy::{Proxy, Trouble};
pub use s3::S3;
pub use wait::{LIMIT, eventually};

/// Says on standard error that a test did not run, and why. `tests/run` collects and counts these lines.
pub fn skipped(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
}

/// Whether the tests that take minutes run too (`tests/run --full`).
pub fn full() -> bool {
    std::env::var_os("GANNET_TEST_FULL").is_some()
}
