//! A node's inputs, as its operator wants them.

use super::{Item, View, What};
use crate::call::Call;
use crate::error::{Problem, refuse};
use crate::tensor::Tensor;

/// A node's inputs.
pub(super) struct Args<'a> {
    pub(super) call: Call<'a>,
    pub(super) inputs: &'a [Option<Item>],
}

impl Args<'_> {
    pub(super) fn item(&self, index: usize) -> Option<&Item> {
        self.inputs.get(index).and_then(Option::as_ref)
    }

    pub(super) fn view(&self, index: usize) -> Result<View, Problem> {
        match self.item(index) {
            Some(Item::View(view)) => Ok(view.clone()),
            Some(Item::Known(_)) => refuse!("its input {index} is a constant: a computed value is needed"),
            None => refuse!("its input {index} is missing"),
        }
    }

    pub(super) fn known(&self, index: usize) -> Result<Option<&Tensor>, Problem> {
        match self.item(index) {
            Some(Item::Known(tensor)) => Ok(Some(tensor)),
            Some(Item::View(_)) => refuse!("its input {index} depends on the network's input: a constant is accepted"),
            None => Ok(None),
        }
    }

    pub(super) fn constant(&self, index: usize) -> Result<&Tensor, Problem> {
        self.known(index)?.ok_or_else(|| Problem(format!("its input {index} is missing")))
    }

    pub(super) fn ints(&self, index: usize) -> Result<Option<Vec<i64>>, Problem> {
        self.known(index)?.map(|tensor| Ok(tensor.to_ints()?.to_vec())).transpose()
    }

    /// An attribute of older versions that newer ones have as an input.
    pub(super) fn numbers(&self, name: &str, index: usize) -> Result<Option<Vec<i64>>, Problem> {
        self.call.numbers(name, self.known(index)?)
    }

    /// `Where(IsNaN(x), constant, x)`: our softmax has no rows without a number.
    pub(super) fn checked(&self) -> Result<View, Problem> {
        match (self.item(0), self.item(1), self.item(2)) {
            (Some(Item::View(View { what: What::IsNan, .. })), Some(Item::Known(_)), Some(Item::View(view))) if matches!(&view.what, What::Scores(scores) if scores.softmax) => {
                Ok(view.clone())
            }
            _ => refuse!("it is accepted of constants, and to replace what is not a number behind attention's softmax"),
        }
    }
}
