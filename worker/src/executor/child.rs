//! The executor process itself: reads orders, computes, reports. Single-minded: whatever goes wrong
//! beyond an order's own failure ends the process, and the supervisor tells of what.

use std::collections::BTreeSet;
use std::io::{BufRead as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use shared::contract::{ErrorCode, ErrorReport};

use super::ahead::{Picture, Work, read_ahead};
use super::models::Models;
use super::wire::{Classify, Order, Report, Say};
use super::{ARGUMENT, limits, sandbox};
use crate::compute::{self, Backend, ComputeError, Decoded, Device, Ended, Flow, Step, TrainingJob, Watch};

/// Steps are told at most this often: a pipe is cheap, but not free.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// Between two tries to write to a disk that is full.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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
    limits::enter()?;
    let threads = std::env::var("GANNET_THREADS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    compute::set_threads(threads);
    if let Ok(name) = std::env::var("GANNET_SIMD") {
        compute::set_simd(compute::find_simd(&name)?);
    }
    let device: Device = std::env::var("GANNET_DEVICE").map_or(Ok(Device::Cpu), |name| name.parse())?;
    let backend = device.open()?;
    // Before anything from outside is read. Behind it NVIDIA's driver would not start; once started it needs no forbidden call.
    if std::env::var_os("GANNET_UNSANDBOXED").is_none() {
        sandbox::enter()?;
    }
    let to_end = Arc::new(ToEnd::default());
    let (sender, orders) = mpsc::channel();
    let reader_to_end = Arc::clone(&to_end);
    std::thread::spawn(move || read_orders(&sender, &reader_to_end));
    let (sender, work) = mpsc::sync_channel(1);
    std::thread::spawn(move || read_ahead(orders, &sender));
    say(&Say::Ready)?;
    let mut held = Held::within(limits::given(), backend);
    let mut before = cpu_time();
    for (number, work) in (1..).zip(work) {
        let mut teller = Teller::new(number, &to_end);
        let report = match work {
            // Taken back before its turn.
            Work::Classify(..) if to_end.contains(number) => teller.ended(),
            work => carry_out(work, &mut teller, &mut held).unwrap_or_else(|error| {
                let report = ErrorReport::of(error.code(), &error);
                // It would fail every order from now on; another process may find it well.
                if matches!(error, ComputeError::Tensor(_)) && held.backend.is_apart() {
                    eprintln!("{device} fails: {report}");
                    std::process::exit(2);
                }
                if matches!(error, ComputeError::Disk { .. }) { Report::Disk(report) } else { Report::Failed(report) }
            }),
        };
        to_end.forget_until(number);
        // From report to report, so that pictures that were read ahead are counted, and counted once.
        let now = cpu_time();
        let cpu_ms = now.saturating_sub(before).as_millis().try_into().unwrap_or(u64::MAX);
        before = now;
        let load_us = teller.loaded.unwrap_or_default().as_micros().try_into().unwrap_or(u64::MAX);
        say(&Say::Report { cpu_ms, memory: limits::held(), load_us, report })?;
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
fn read_orders(orders: &mpsc::Sender<Order>, to_end: &ToEnd) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(Order::End(number)) => to_end.add(number),
            Ok(order) => {
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
struct Held {
    backend: Backend,
    models: Models,
    decoded: Decoded,
}

impl Held {
    /// With a memory of so many bytes: a quarter of it at most, the rest is to compute with.
    fn within(memory: Option<u64>, backend: Backend) -> Self {
        let quarter = memory.map_or(u64::MAX, |memory| memory / 4);
        let room = usize::try_from(quarter).unwrap_or(usize::MAX).min(Decoded::ROOM);
        Self { backend, models: Models::with_room(quarter.min(Models::ROOM)), decoded: Decoded::with_room(room) }
    }
}

fn carry_out(work: Work, teller: &mut Teller<'_>, held: &mut Held) -> Result<Report, ComputeError> {
    match work {
        Work::Classify(order, pictures) => {
            held.decoded.clear();
            classify(&order, &pictures, held, teller)
        }
        Work::Other(Order::Train { trial, dataset, train, resume, out }) => {
            held.models.clear();
            let (trial, dataset, resume, backend) = (&trial, &dataset, resume.as_deref(), &held.backend);
            let job = TrainingJob { trial, dataset, train: &train, resume, out: &out, backend };
            train_job(&job, &mut held.decoded, teller)
        }
        Work::Other(Order::Evaluate { trial, dataset, split, checkpoint }) => {
            let measured = compute::evaluate(&trial, &dataset, &split, &checkpoint, &held.backend, teller)?;
            Ok(measured.map_or_else(|| teller.ended(), Report::Evaluated))
        }
        Work::Other(Order::Classify(_) | Order::End(_)) => unreachable!("neither is passed on as it is"),
    }
}

fn classify(
    order: &Classify,
    pictures: &mpsc::Receiver<Vec<Picture>>,
    held: &mut Held,
    teller: &mut Teller<'_>,
) -> Result<Report, ComputeError> {
    let classifier = held.models.get(order, &held.backend, &mut || teller.alive())?;
    teller.has_loaded();
    let mut outcomes = Vec::new();
    for chunk in pictures {
        outcomes.extend(classifier.classify(chunk, &order.wanted)?);
        let fraction = outcomes.len() as f64 / order.images.len() as f64;
        if outcomes.len() < order.images.len() && teller.step(&Step { fraction, epoch: None }) == Flow::Pause {
            return Ok(teller.ended());
        }
    }
    if outcomes.len() != order.images.len() {
        eprintln!("the thread that reads pictures ahead has died");
        std::process::exit(2);
    }
    let (precision, agreement) = classifier.precision();
    Ok(Report::Classified { images: outcomes, precision, agreement })
}

/// The orders that are to end: the one that is carried out, and others that wait for their turn.
#[derive(Default)]
struct ToEnd(Mutex<BTreeSet<u64>>);

impl ToEnd {
    fn add(&self, number: u64) {
        self.numbers().insert(number);
    }

    fn contains(&self, number: u64) -> bool {
        self.numbers().contains(&number)
    }

    /// Those up to `number` have ended.
    fn forget_until(&self, number: u64) {
        self.numbers().retain(|ended| *ended > number);
    }

    fn numbers(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the supervisor how an order moves on, and hears whether it is to end.
struct Teller<'a> {
    number: u64,
    /// The orders that are to end.
    to_end: &'a ToEnd,
    began: Instant,
    /// How long it took until everything was loaded.
    loaded: Option<Duration>,
    told: Option<Instant>,
    fraction: f64,
    broken_pipe: bool,
}

impl<'a> Teller<'a> {
    fn new(number: u64, to_end: &'a ToEnd) -> Self {
        Self { number, to_end, began: Instant::now(), loaded: None, told: None, fraction: 0.0, broken_pipe: false }
    }

    /// Everything is loaded: said, or seen by the first step.
    fn has_loaded(&mut self) {
        self.loaded.get_or_insert_with(|| self.began.elapsed());
    }

    fn tell(&mut self, epoch: Option<shared::contract::EpochMetrics>) {
        if epoch.is_some() || self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            self.broken_pipe |= say(&Say::Step { fraction: self.fraction, epoch }).is_err();
        }
    }

    /// The report of an order that was ended.
    fn ended(&self) -> Report {
        Report::Ended(self.fraction)
    }
}

impl Watch for Teller<'_> {
    fn step(&mut self, step: &Step) -> Flow {
        self.has_loaded();
        self.fraction = step.fraction;
        self.tell(step.epoch);
        let is_over = self.broken_pipe || self.to_end.contains(self.number);
        if is_over { Flow::Pause } else { Flow::Go }
    }

    fn loaded(&mut self) {
        self.has_loaded();
    }

    fn alive(&mut self) {
        self.tell(None);
    }

    fn disk_full(&mut self, error: &ComputeError) -> bool {
        if say(&Say::DiskFull(ErrorReport::of(ErrorCode::Failed, error))).is_err() {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
        true
    }
}

fn train_job(job: &TrainingJob<'_>, decoded: &mut Decoded, teller: &mut Teller<'_>) -> Result<Report, ComputeError> {
    Ok(match compute::train(job, decoded, teller)? {
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
