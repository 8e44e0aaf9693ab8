//! How long workers take to consume again once the broker is back.

use std::time::Duration;

use jiff::Timestamp;

use super::crew::Obstacle;

/// One process of a worker: which worker, when it began to consume each time, and when it was killed or told to end.
#[derive(Debug)]
pub(super) struct Consumer {
    /// The worker.
    pub(super) worker: usize,
    /// When it began to consume, in order.
    pub(super) consumes: Vec<Timestamp>,
    /// Its end.
    pub(super) until: Option<Timestamp>,
}

/// The time from each return of the broker (`restarts`: gone, back) to each worker's next consumer, in order of size.
///
/// A worker counts that consumed before and was neither killed nor told to end meanwhile. One that was frozen or cut off
/// is counted from the end of that, and not at all where it was back before; one that does not consume before the broker
/// goes again, with all the time until then.
pub(super) fn times(
    consumers: &[Consumer],
    restarts: &[(Timestamp, Timestamp)],
    obstacles: &[Obstacle],
) -> Vec<Duration> {
    let mut times = Vec::new();
    for (at, (gone, back)) in restarts.iter().enumerate() {
        let gone_again = restarts.get(at + 1).map(|(gone, _)| *gone);
        for consumer in consumers.iter().filter(|consumer| consumer.consumes.first().is_some_and(|first| first < gone))
        {
            let next = consumer.consumes.iter().find(|consumes| *consumes > back).copied();
            let Some(until) = [next, gone_again, consumer.until].into_iter().flatten().min() else { continue };
            if Some(until) == consumer.until {
                continue;
            }
            let ours =
                obstacles.iter().filter(|obstacle| obstacle.worker.is_none_or(|worker| worker == consumer.worker));
            let since =
                ours.filter(|obstacle| obstacle.from < until).map(|obstacle| obstacle.to).fold(*back, Timestamp::max);
            times.extend(Duration::try_from(until.duration_since(since)));
        }
    }
    times.sort_unstable();
    times
}

/// The value that a share of `sorted` does not exceed.
pub(super) fn quantile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("a time")
    }

    fn consumer(consumes: &[i64], until: Option<i64>) -> Consumer {
        Consumer { worker: 0, consumes: consumes.iter().map(|second| at(*second)).collect(), until: until.map(at) }
    }

    fn seconds(consumers: &[Consumer], obstacles: &[Obstacle]) -> Vec<u64> {
        let restarts = [(at(10), at(20)), (at(60), at(70))];
        times(consumers, &restarts, obstacles).iter().map(Duration::as_secs).collect()
    }

    #[test]
    fn counts_from_the_brokers_return_to_the_next_consumer() {
        assert_eq!(seconds(&[consumer(&[1, 23, 75], None)], &[]), [3, 5]);
        // It was away for the first time, came back too late, and never.
        assert_eq!(seconds(&[consumer(&[15, 75], None)], &[]), [5]);
        assert_eq!(seconds(&[consumer(&[1, 75], None)], &[]), [5, 40]);
        assert_eq!(seconds(&[consumer(&[1], Some(25))], &[]), [0; 0]);
    }

    #[test]
    fn an_obstacle_is_not_counted() {
        let frozen = |worker| Obstacle { worker, from: at(5), to: at(22) };
        assert_eq!(seconds(&[consumer(&[1, 23, 75], None)], &[frozen(Some(0))]), [1, 5]);
        assert_eq!(seconds(&[consumer(&[1, 23, 75], None)], &[frozen(None)]), [1, 5]);
        assert_eq!(seconds(&[consumer(&[1, 23, 75], None)], &[frozen(Some(1))]), [3, 5]);
    }

    #[test]
    fn whoever_was_back_before_the_end_of_an_obstacle_is_not_counted() {
        let frozen = Obstacle { worker: None, from: at(5), to: at(30) };
        assert_eq!(seconds(&[consumer(&[1, 23, 75], None)], &[frozen]), [5]);
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let sorted: Vec<Duration> = (1..=100).map(Duration::from_secs).collect();
        assert_eq!(quantile(&sorted, 0.5), Some(Duration::from_secs(50)));
        assert_eq!(quantile(&sorted, 0.99), Some(Duration::from_secs(99)));
        assert_eq!(quantile(&sorted[..1], 0.99), Some(Duration::from_secs(1)));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
