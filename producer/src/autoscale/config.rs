//! The file of pools: its form, and the checks that need nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use shared::contract::Kind;
use shared::names::Name;
use shared::strict::{self, Problem};

use super::backend::Launch;
use super::pool::Pool;

/// Pools' names are parts of workers' names, which have 64 characters.
const LONGEST_NAME: usize = 24;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    total: Option<u32>,
    pool: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Name,
    kinds: Option<Vec<Kind>>,
    min: Option<u32>,
    max: Option<u32>,
    slots: Option<u32>,
    clear_within: Option<Time>,
    idle: Option<Time>,
    start_limit: Option<Time>,
    device: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    image: Option<String>,
    gpus: Option<String>,
    memory_mib: Option<u64>,
    cpus: Option<f64>,
}

/// A time as in `30s`.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Time(Duration);

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let read = humantime::parse_duration(&text);
        read.map(Self).map_err(|_| format!("`{text}` is no time: one like \"30s\" or \"5m\" is accepted"))
    }
}

/// Pools, and how their workers are started.
#[derive(Debug, Clone)]
pub struct Pools {
    /// Workers at most, of all pools.
    pub total: Option<u32>,
    /// The pools, the preferred first.
    pub pools: Vec<Pool>,
    /// How the workers of each are started, by its name.
    pub launches: BTreeMap<String, Launch>,
}

impl Pools {
    /// One pool.
    pub fn one(pool: Pool, launch: Launch) -> Self {
        let launches = BTreeMap::from([(pool.name.clone(), launch)]);
        Self { total: None, pools: vec![pool], launches }.sharing_a_machine()
    }

    /// Reads a file of pools; what it does not say of a pool is as in `pool` and `launch`.
    ///
    /// # Errors
    /// The first problem, with its key.
    pub fn read(text: &str, pool: &Pool, launch: &Launch) -> Result<Self, Problem> {
        let file: File = strict::toml(text)?;
        if file.pool.is_empty() {
            return Err(Problem::new("pool", "empty", "one [[pool]] or more is needed"));
        }
        let (mut pools, mut launches) = (Vec::new(), BTreeMap::new());
        for (number, entry) in file.pool.into_iter().enumerate() {
            let (pool, launch) = entry.with(pool, launch);
            check(&pool, &launch).map_err(|problem| problem.inside(&format!("pool[{number}]")))?;
            if launches.insert(pool.name.clone(), launch).is_some() {
                let problem = Problem::new("name", format!("`{}`", pool.name), "another pool has this name");
                return Err(problem.inside(&format!("pool[{number}]")));
            }
            pools.push(pool);
        }
        Ok(Self { total: file.total, pools, launches }.sharing_a_machine())
    }

    /// All workers run on one machine: each has an equal share of its memory, unless its container has a limit.
    fn sharing_a_machine(mut self) -> Self {
        let most = self.pools.iter().fold(0_u32, |sum, pool| sum.saturating_add(pool.max));
        let most = self.total.map_or(most, |total| most.min(total.max(1)));
        for launch in self.launches.values_mut() {
            launch.workers_here = launch.memory.is_none().then_some(most);
        }
        self
    }

    /// The kinds of jobs that any of the pools takes.
    pub fn kinds(&self) -> Vec<Kind> {
        let kinds: BTreeSet<Kind> = self.pools.iter().flat_map(|pool| pool.kinds.iter().copied()).collect();
        kinds.into_iter().collect()
    }
}

impl Entry {
    fn with(self, pool: &Pool, launch: &Launch) -> (Pool, Launch) {
        let time = |time: Option<Time>, otherwise: Duration| time.map_or(otherwise, |time| time.0);
        let slots = self.slots.unwrap_or(pool.slots);
        let mut env = launch.env.clone();
        env.extend(self.env);
        let launch = Launch {
            slots,
            device: self.device.or_else(|| launch.device.clone()),
            env,
            image: self.image.or_else(|| launch.image.clone()),
            gpus: self.gpus.or_else(|| launch.gpus.clone()),
            memory: self.memory_mib.map(|mib| mib << 20).or(launch.memory),
            cpus: self.cpus.or(launch.cpus),
            workers_here: None,
        };
        let mut kinds = self.kinds.unwrap_or_else(|| pool.kinds.clone());
        kinds.dedup();
        let pool = Pool {
            name: self.name.to_string(),
            kinds,
            min: self.min.unwrap_or(pool.min),
            max: self.max.unwrap_or(pool.max),
            slots,
            clear_within: time(self.clear_within, pool.clear_within),
            idle: time(self.idle, pool.idle),
            start_limit: time(self.start_limit, pool.start_limit),
        };
        (pool, launch)
    }
}

/// What flags and files alike must keep to.
///
/// # Errors
/// The first problem, with its key.
pub fn check(pool: &Pool, launch: &Launch) -> Result<(), Problem> {
    if pool.name.len() > LONGEST_NAME {
        return Err(Problem::new(
            "name",
            format!("`{}`", pool.name),
            format!("{LONGEST_NAME} characters at most are accepted"),
        ));
    }
    if pool.kinds.is_empty() {
        return Err(Problem::new("kinds", "empty", "`trial`, `batch` or both are accepted"));
    }
    if pool.max == 0 || pool.min > pool.max {
        return Err(Problem::new("max", pool.max, format!("at least one, and at least `min`, which is {}", pool.min)));
    }
    if !(1..=1024).contains(&pool.slots) {
        return Err(Problem::new("slots", pool.slots, "1 to 1024 is accepted"));
    }
    if pool.clear_within < Duration::from_millis(100) {
        return Err(Problem::new(
            "clear_within",
            humantime::format_duration(pool.clear_within),
            "at least 100ms is accepted",
        ));
    }
    if pool.start_limit < Duration::from_secs(5) {
        return Err(Problem::new(
            "start_limit",
            humantime::format_duration(pool.start_limit),
            "at least 5s is accepted",
        ));
    }
    if launch.cpus.is_some_and(|cpus| !(cpus > 0.0 && cpus <= 4096.0)) {
        return Err(Problem::new("cpus", launch.cpus.unwrap_or_default(), "a number above 0 is accepted"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Pools, Problem> {
        Pools::read(text, &Pool::new("pool", 4), &Launch { slots: 1, ..Launch::default() })
    }

    #[test]
    fn the_example_is_read() {
        let pools = read(include_str!("../../../infra/autoscale.toml.sample")).expect("a sample that is accepted");
        assert!(pools.pools.len() > 1 && pools.total.is_some(), "{pools:?}");
        assert_eq!(pools.kinds(), Kind::ALL);
    }

    #[test]
    fn a_pool_has_what_it_says_and_the_rest_from_the_flags() {
        let pools =
            read("[[pool]]\nname = \"gpu\"\nkinds = [\"trial\"]\nslots = 2\nidle = \"5m\"\nenv = { A = \"b\" }")
                .expect("accepted");
        let pool = &pools.pools[0];
        assert_eq!((pool.max, pool.slots, pool.idle), (4, 2, Duration::from_secs(300)));
        assert_eq!(pools.launches["gpu"].env["A"], "b");
    }

    #[test]
    fn workers_share_the_machine_unless_their_containers_have_limits() {
        let text = "[[pool]]\nname = \"a\"\nmax = 3\n[[pool]]\nname = \"b\"\nmax = 2\nmemory_mib = 100\n";
        let shares = |text: &str| {
            let launches = read(text).expect("accepted").launches;
            (launches["a"].workers_here, launches["b"].workers_here)
        };
        assert_eq!(shares(text), (Some(5), None));
        assert_eq!(shares(&format!("total = 4\n{text}")), (Some(4), None));
        let one = Pools::one(Pool::new("a", 7), Launch::default());
        let variables = one.launches["a"].variables("w", &[Kind::Trial]);
        assert!(variables.contains(&("GANNET_WORKERS_HERE".into(), "7".into())), "{variables:?}");
        let env = BTreeMap::from([("GANNET_WORKERS_HERE".into(), "1".into())]);
        let one = Pools::one(Pool::new("a", 7), Launch { env, ..Launch::default() });
        let variables = one.launches["a"].variables("w", &[Kind::Trial]);
        assert!(variables.contains(&("GANNET_WORKERS_HERE".into(), "1".into())), "what is said counts: {variables:?}");
    }

    #[test]
    fn a_problem_names_the_key_and_what_is_accepted() {
        for (text, expected) in [
            ("", "`pool`"),
            ("pool = []", "`pool` is empty: one [[pool]]"),
            ("[[pool]]\nname = \"a\"\nmax = 0", "`pool[0].max` is 0"),
            ("[[pool]]\nname = \"a\"\nmin = 9", "`pool[0].max` is 4: at least one, and at least `min`, which is 9"),
            ("[[pool]]\nname = \"a\"\nidle = \"soon\"", "`pool[0].idle`"),
            ("[[pool]]\nname = \"a\"\nkinds = [\"trail\"]", "did you mean `trial`"),
            ("[[pool]]\nname = \"a\"\n[[pool]]\nname = \"a\"", "`pool[1].name` is `a`: another pool"),
        ] {
            let problem = read(text).expect_err(text).to_string();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }
}
