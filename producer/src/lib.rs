//! Gannet's client side: studies, data, the commands, collected results and reports.

mod bar;
pub mod commands;
pub mod data;
mod drive;
mod listings;
mod models;
pub mod report;
mod runs;
mod session;
pub mod study;
