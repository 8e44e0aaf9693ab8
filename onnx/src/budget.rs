//! How much memory a file may ask for.

use std::cell::Cell;
use std::rc::Rc;

use crate::error::{Problem, refuse};
use crate::limits;

/// Bytes that are left for what a file makes: parameters, constants, tables. Taken before they are, and never given back.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Rc<Cell<u64>>);

impl Budget {
    /// Of a file of so many bytes.
    pub(crate) fn new(file: u64) -> Self {
        let budget = Self(Rc::new(Cell::new(limits::MEMORY)));
        budget.grow(file);
        budget
    }

    /// There is so much more of the file.
    pub(crate) fn grow(&self, file: u64) {
        self.0.set(self.0.get().saturating_add(file.saturating_mul(limits::GROWTH)));
    }

    /// Takes the bytes of so many elements.
    pub(crate) fn take(&self, elements: usize, bytes: usize) -> Result<(), Problem> {
        let all = (elements as u64).saturating_mul(bytes as u64);
        match self.0.get().checked_sub(all) {
            Some(left) => {
                self.0.set(left);
                Ok(())
            }
            None => refuse!(
                "{all} bytes more are needed for what is computed from the file: {} and {} for each of its own are accepted",
                limits::MEMORY,
                limits::GROWTH
            ),
        }
    }
}
