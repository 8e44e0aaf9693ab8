//! Why a file cannot be used.

use std::path::PathBuf;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It, or a file with its tensors, cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no ONNX file, or damaged.
    #[error("is no ONNX file that can be read: {0}")]
    Damaged(String),
    /// Something in the graph is not accepted.
    #[error("{at}: {what}")]
    Refused {
        /// The node and its operator, or a tensor.
        at: String,
        /// What is wrong with it, and what is accepted.
        what: String,
    },
}

/// What is wrong with a node; whoever knows the node adds it.
#[derive(Debug)]
pub(crate) struct Problem(pub(crate) String);

impl Problem {
    pub(crate) fn at(self, at: impl Into<String>) -> Error {
        Error::Refused { at: at.into(), what: self.0 }
    }
}

impl From<engine::graph::Unfit> for Problem {
    fn from(unfit: engine::graph::Unfit) -> Self {
        Self(unfit.0)
    }
}

/// Returns with a [`Problem`].
macro_rules! refuse {
    ($($what:tt)*) => { return Err($crate::error::Problem(format!($($what)*))) };
}
pub(crate) use refuse;

/// A name of the file as an error shows it: its beginning, however long it is.
pub(crate) fn shown(name: &str) -> String {
    name.chars().take(200).collect()
}
