//! Reads the pictures of orders ahead of the thread that computes, the next order's too, and a few pictures at most.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::prelude::*;
use shared::contract::ImageError;

use super::wire::{Classify, Order};
use crate::compute::PictureReader;

/// An order, and its pictures as they are read.
pub(super) enum Work {
    /// Labels pictures.
    Classify(Box<Classify>, Receiver<Vec<Picture>>),
    /// Anything else.
    Other(Order),
}

/// A picture's name, and its bytes or why it has none.
pub(super) type Picture = (String, Result<Vec<u8>, ImageError>);

/// Pictures that each thread reads at once.
const CHUNK: usize = 4;

/// Passes orders on, in order, until there are no more or nobody wants them.
pub(super) fn read_ahead(orders: Receiver<Order>, work: &SyncSender<Work>) {
    for order in orders {
        let passed = match order {
            Order::Classify(order) => {
                let images = order.images.clone();
                // A model that cannot be used is refused where it is loaded.
                let reader = PictureReader::of(&order.model).ok();
                let (sender, pictures) = sync_channel(1);
                let passed = work.send(Work::Classify(order, pictures));
                if let Some(reader) = reader {
                    read(&reader, images, &sender);
                }
                passed
            }
            other => work.send(Work::Other(other)),
        };
        if passed.is_err() {
            break;
        }
    }
}

fn read(reader: &PictureReader, images: Vec<(String, PathBuf)>, pictures: &SyncSender<Vec<Picture>>) {
    let threads = rayon::current_num_threads();
    let one = |(name, path): (String, PathBuf)| {
        let read = reader.read(&path);
        (name, read)
    };
    let mut images = images.into_iter();
    loop {
        let chunk: Vec<_> = images.by_ref().take(CHUNK * threads).collect();
        if chunk.is_empty() {
            break;
        }
        let chunk =
            if threads == 1 { chunk.into_iter().map(one).collect() } else { chunk.into_par_iter().map(one).collect() };
        // Fails when the order was refused.
        if pictures.send(chunk).is_err() {
            break;
        }
    }
}
