use super::*;
use crate::compute::Device;

fn metrics() -> Arc<Metrics> {
    let settings = WorkerSettings::new("cache".into(), Some(3), Device::Cpu).expect("this program");
    Metrics::new(&settings)
}

#[test]
fn numbers_and_names_agree() {
    for (number, kind) in Kind::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, number);
    }
    for (number, outcome) in Outcome::ALL.into_iter().enumerate() {
        assert_eq!(outcome as usize, number);
    }
    for (number, on) in On::ALL.into_iter().enumerate() {
        assert_eq!(on as usize, number);
    }
}

#[test]
fn a_worker_is_ready_only_while_it_takes_jobs() {
    let metrics = metrics();
    let ready = || metrics.ready().err().unwrap_or_default();
    assert!(ready().contains("connects to the queue"));
    metrics.reaches(Stage::Store);
    assert!(ready().contains("connects to the store"));
    metrics.reaches(Stage::Working);
    assert_eq!(metrics.ready(), Ok(()));
    metrics.reaches(Stage::Draining);
    metrics.reaches(Stage::Working);
    assert!(ready().contains("drains"), "never again");
    assert_eq!(metrics.healthy(), Ok(()), "which is no reason to start it again");
}

#[test]
fn a_slot_that_hangs_is_no_health() {
    let metrics = metrics();
    let watched = metrics.tally.watch(Duration::ZERO);
    assert!(metrics.healthy().expect_err("overdue").contains("a slot is stuck"));
    drop(watched);
    assert_eq!(metrics.healthy(), Ok(()));
}

#[test]
fn time_in_the_queue_is_counted_and_never_negative() {
    let metrics = metrics();
    let now = SystemTime::now();
    for enqueued in [None, Some(now - Duration::from_secs(2)), Some(now + Duration::from_secs(3600))] {
        metrics.received(Kind::Batch, enqueued);
    }
    let mut page = String::new();
    shared::metrics::encode(&mut page, metrics.registry()).expect("a string takes everything");
    let number = |end: &str| -> f64 {
        let series = format!("gannet_job_queue_seconds_{end}{{kind=\"batch\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(series.as_str()));
        line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {series}in {page}"))
    };
    assert!(number("count") == 2.0 && (2.0..3600.0).contains(&number("sum")), "{page}");
    metrics.settled(Kind::Batch, Outcome::Done);
    assert_eq!(metrics.in_hand[Kind::Batch as usize].get(), 2);
}

#[test]
fn the_readme_names_each_metric_and_its_labels() {
    let readme = include_str!("../../../README.md");
    let mut page = String::new();
    shared::metrics::encode(&mut page, metrics().registry()).expect("a string takes everything");
    let mut names = 0;
    for line in page.lines().filter(|line| line.starts_with("gannet_")) {
        let end = line.find(['{', ' ']).expect("a series");
        let name = ["_bucket", "_sum", "_count"].iter().fold(&line[..end], |name, end| name.trim_end_matches(end));
        assert!(
            readme.contains(&format!("`{name}`")) || readme.contains(&format!("`{name}{{")),
            "{name} is not in README.md"
        );
        names += 1;
    }
    assert!(names > 100, "{names} series");
}
