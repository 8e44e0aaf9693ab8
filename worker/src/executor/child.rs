//! The executor process itself: reads orders, computes, reports. Single-minded: whatever goes wrong
//! beyond an order's own failure ends the process, and the supervisor tells of what.

use std::io::{BufRead as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use shared::contract::ErrorReport;

use super::ahead::{Picture, Work, read_ahead};
use super::models::Models;
use super::wire::{Classify, Order, Report, Say};
use super::{ARGUMENT, sandbox};
use crate::compute::{self, ComputeError, Decoded, Ended, Flow, Step, TrainingJob};

/// Steps are told at most this often: a pipe is cheap, but not free.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Becomes an executor, and never returns, if this process was started as one. To be called first in
/// `main`, before any thread or connection.
pub fn run_if_asked() {
    if std::env::args().nth(1).as_deref() == Some(ARGUMENT) {
        let ended = run();
        if let Err(error) = ended {
            eprintln!("{error}");
            std::process::exit(2);
        }
        std::process::exit(0);
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    compute::keep_pages();
    ignore_stop_signals();
    // Read before any thread starts, so that the filter holds for all of them.
    if std::env::var_os("GANNET_UNSANDBOXED").is_none() {
        sandbox::enter()?;
    }
    let threads = std::env::var("GANNET_THREADS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    compute::set_threads(threads);
    let pause = Arc::new(AtomicBool::new(false));
    let (sender, orders) = mpsc::channel();
    let reader_pause = Arc::clone(&pause);
    std::thread::spawn(move || read_orders(&sender, &reader_pause));
    let (sender, work) = mpsc::sync_channel(1);
    std::thread::spawn(move || read_ahead(orders, &sender));
    say(&Say::Ready)?;
    let mut held = Held::default();
    let mut before = cpu_time();
    for work in work {
        let report = carry_out(work, &pause, &mut held)
            .unwrap_or_else(|error| Report::Failed(ErrorReport::of(error.code(), &error)));
        pause.store(false, Ordering::Relaxed);
        // From report to report, so that pictures that were read ahead are counted, and counted once.
        let now = cpu_time();
        let cpu_ms = now.saturating_sub(before).as_millis().try_into().unwrap_or(u64::MAX);
        before = now;
        say(&Say::Report { cpu_ms, report })?;
    }
    // The reading thread ends the process when its orders end; before that, the one between them died.
    Err("the thread that reads pictures ahead has died".into())
}

/// A terminal's Ctrl-C and a service manager's stop reach every process of the group. The supervisor
/// drains on them; its executors must live until it is done.
fn ignore_stop_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: ignoring a signal installs no handler code.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

/// Feeds orders to the computing thread. The supervisor's end of the pipe closes when it dies: then
/// nobody wants the result, and the process ends in the middle of whatever it does.
fn read_orders(orders: &mpsc::Sender<Order>, pause: &AtomicBool) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(Order::Pause) => pause.store(true, Ordering::Relaxed),
            Ok(order) => {
                // A pause that came too late for the last order is not meant for this one.
                pause.store(false, Ordering::Relaxed);
                if orders.send(order).is_err() {
                    break;
                }
            }
            Err(error) => {
                eprintln!("an order cannot be read: {error}");
                std::process::exit(2);
            }
        }
    }
    std::process::exit(0);
}

fn say(said: &Say) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

/// What orders leave for the next: models, so that a run of batches loads each once, or decoded pictures, so that
/// the trials of a study decode them once. Never both: either may fill what memory there is.
#[derive(Default)]
struct Held {
    models: Models,
    decoded: Decoded,
}

fn carry_out(work: Work, pause: &AtomicBool, held: &mut Held) -> Result<Report, ComputeError> {
    match work {
        Work::Classify(order, pictures) => {
            held.decoded = Decoded::default();
            classify(&order, &pictures, &mut held.models)
        }
        Work::Other(Order::Train { trial, dataset, train, resume, out }) => {
            held.models.clear();
            let job =
                TrainingJob { trial: &trial, dataset: &dataset, train: &train, resume: resume.as_deref(), out: &out };
            train_job(&job, &mut held.decoded, pause)
        }
        Work::Other(Order::Evaluate { trial, dataset, split, checkpoint }) => {
            compute::evaluate(&trial, &dataset, &split, &checkpoint).map(Report::Evaluated)
        }
        Work::Other(Order::Classify(_) | Order::Pause) => unreachable!("neither is passed on as it is"),
    }
}

fn classify(
    order: &Classify,
    pictures: &mpsc::Receiver<Vec<Picture>>,
    models: &mut Models,
) -> Result<Report, ComputeError> {
    let classifier = models.get(&order.model, &order.weights)?;
    let mut outcomes = Vec::new();
    let mut told: Option<Instant> = None;
    for chunk in pictures {
        outcomes.extend(classifier.classify(chunk, order.top_k, order.threshold));
        let is_last = outcomes.len() == order.images.len();
        if !is_last && told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            told = Some(Instant::now());
            let fraction = outcomes.len() as f64 / order.images.len() as f64;
            // A pipe that is broken ends this process soon.
            let _ = say(&Say::Step { fraction, epoch: None });
        }
    }
    if outcomes.len() != order.images.len() {
        eprintln!("the thread that reads pictures ahead has died");
        std::process::exit(2);
    }
    Ok(Report::Classified(outcomes))
}

fn train_job(job: &TrainingJob<'_>, decoded: &mut Decoded, pause: &AtomicBool) -> Result<Report, ComputeError> {
    let mut told = Instant::now();
    let mut broken_pipe = false;
    let mut each = |step: &Step| {
        if step.epoch.is_some() || told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            broken_pipe |= say(&Say::Step { fraction: step.fraction, epoch: step.epoch }).is_err();
        }
        if broken_pipe || pause.load(Ordering::Relaxed) { Flow::Pause } else { Flow::Go }
    };
    Ok(match compute::train(job, decoded, &mut each)? {
        Ended::Paused => Report::Paused,
        Ended::Finished(trained) => Report::Trained {
            epochs: trained.epochs,
            best_epoch: trained.best_epoch,
            validation: trained.validation,
            parameter_count: trained.parameter_count,
            stopped_early: trained.stopped_early,
        },
    })
}

/// Processor time of this process, all its threads together.
fn cpu_time() -> Duration {
    // SAFETY: `getrusage` fills the struct it is given; all zeros is a valid one to begin with.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let of = |time: libc::timeval| {
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let micros = u64::try_from(time.tv_usec).unwrap_or(0);
        Duration::from_secs(seconds) + Duration::from_micros(micros)
    };
    of(usage.ru_utime) + of(usage.ru_stime)
}
