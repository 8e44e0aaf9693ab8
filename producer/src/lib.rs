//! Gannet's client side: studies, data, the commands, collected results and reports.

pub mod autoscale;
pub mod bar;
pub mod commands;
pub mod data;
pub mod dead;
pub mod drive;
pub mod enqueue;
pub mod gc;
pub mod images;
pub mod listings;
pub mod models;
mod patience;
pub mod report;
pub mod runs;
pub mod session;
pub mod study;
mod words;
pub mod workers;
