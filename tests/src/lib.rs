//! What end-to-end tests need: services that they start, watch and stop.

pub mod s3_server;
