//! Gannet's client side: studies, data, collected results and reports.

pub mod data;
pub mod report;
pub mod study;
