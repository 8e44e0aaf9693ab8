//! Where the queue and the store are: read from the environment once, before any connection.

use std::fmt;
use std::path::PathBuf;

use crate::strict;

/// Looks up a variable. Passed in, so that tests never touch the process's environment.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Every variable of the programs, read here or by their command lines.
pub const VARIABLES: [&str; 26] = [
    "GANNET_AMQP_URL",
    "GANNET_AMQP_URL_FILE",
    "GANNET_AUTOSCALER",
    "GANNET_CACHE",
    "GANNET_CACHE_MIB",
    "GANNET_DEVICE",
    "GANNET_EXECUTOR_MIB",
    "GANNET_EXIT_WHEN_IDLE",
    "GANNET_HOME",
    "GANNET_KINDS",
    "GANNET_LOG",
    "GANNET_LOG_FORMAT",
    "GANNET_METRICS",
    "GANNET_RECYCLE_JOBS",
    "GANNET_RECYCLE_MIB",
    "GANNET_S3_ENDPOINT",
    "GANNET_SIMD",
    "GANNET_SLICE",
    "GANNET_SLOTS",
    "GANNET_STALL",
    "GANNET_STORE",
    "GANNET_THREADS",
    "GANNET_TIME_LIMIT",
    "GANNET_UNSANDBOXED",
    "GANNET_WORKERS_HERE",
    "GANNET_WORKER_NAME",
];

/// Those that `infra/docker-compose.yml` reads, and no program.
pub const COMPOSE_VARIABLES: [&str; 6] = [
    "GANNET_FILES",
    "GANNET_MAX_WORKERS",
    "GANNET_PREBUILT",
    "GANNET_PRODUCER_IMAGE",
    "GANNET_SECRETS",
    "GANNET_WORKER_IMAGE",
];

/// Says of each of the variables called `names` that looks like one of ours and is none what may be meant.
pub fn misspelt<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let ours = |name: &&str| name.starts_with("GANNET_") && !VARIABLES.contains(name) && !is_of_others(name);
    let told = |name: &str| match strict::nearest(name, VARIABLES) {
        Some(near) => format!("the variable {name} is not read: did you mean {near}?"),
        None => format!("the variable {name} is not read: there are {}", VARIABLES.join(", ")),
    };
    names.into_iter().filter(ours).map(told).collect()
}

/// The tests' variables, the compose file's, and those that Kubernetes sets for a service called `gannet…`.
fn is_of_others(name: &str) -> bool {
    name.starts_with("GANNET_TEST_")
        || COMPOSE_VARIABLES.contains(&name)
        || name.contains("_SERVICE_")
        || name.ends_with("_PORT")
        || name.contains("_PORT_")
}

/// A variable that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} is `{found}`: {accepted}")]
pub struct BadSetting {
    /// The variable.
    pub variable: String,
    /// What stood there; a password in it is replaced by stars.
    pub found: String,
    /// What is accepted, with an example.
    pub accepted: String,
}

/// Where the queue and the store are.
#[derive(Clone, PartialEq, Eq)]
pub struct Places {
    /// The queue.
    pub queue: QueuePlace,
    /// The store.
    pub store: StorePlace,
    /// The embedded folder (`GANNET_HOME`, `./.gannet`).
    pub home: PathBuf,
}

/// Where the queue is.
#[derive(Clone, PartialEq, Eq)]
pub enum QueuePlace {
    /// An AMQP 0-9-1 address; may hold a password: print it with [`redact`] only.
    Amqp(String),
    /// A SQLite file.
    File(PathBuf),
}

/// Where the store is.
#[derive(Clone, PartialEq, Eq)]
pub enum StorePlace {
    /// `s3://bucket/prefix`, at `endpoint` where it is not Amazon's.
    S3 {
        /// The bucket.
        bucket: String,
        /// The prefix of every key, without a slash at its end; may be empty.
        prefix: String,
        /// `GANNET_S3_ENDPOINT`.
        endpoint: Option<String>,
    },
    /// A directory.
    Dir(PathBuf),
}

impl Places {
    /// Reads `GANNET_AMQP_URL` (or `GANNET_AMQP_URL_FILE`), `GANNET_STORE`, `GANNET_S3_ENDPOINT` and `GANNET_HOME`.
    ///
    /// # Errors
    /// The variable that cannot be used, with an example of one that can.
    pub fn read(lookup: Lookup<'_>) -> Result<Self, BadSetting> {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let queue = QueuePlace::read(lookup)?;
        let home = home(lookup);
        let endpoint = set("GANNET_S3_ENDPOINT");
        if let Some(endpoint) = &endpoint
            && !endpoint.starts_with("http://")
            && !endpoint.starts_with("https://")
        {
            return Err(bad("GANNET_S3_ENDPOINT", endpoint, "an address like http://localhost:9000 is accepted"));
        }
        let store = match set("GANNET_STORE") {
            None => StorePlace::Dir(home.join("store")),
            Some(text) => store_place(&text, endpoint)?,
        };
        let split =
            matches!((&queue, &store), (QueuePlace::Amqp(_), StorePlace::Dir(_))) && set("GANNET_STORE").is_none();
        if split {
            return Err(bad(
                "GANNET_STORE",
                "",
                "with GANNET_AMQP_URL a store that every worker reaches is needed, like s3://bucket/prefix (or file:///shared/folder)",
            ));
        }
        Ok(Self { queue, store, home })
    }

    /// Whether everything is in a local folder, so that the command computes by itself.
    pub fn is_embedded(&self) -> bool {
        matches!(self.queue, QueuePlace::File(_))
    }
}

/// What `GANNET_AMQP_URL` says, or the file that `GANNET_AMQP_URL_FILE` names: containers are given secrets as files.
fn amqp_url(lookup: Lookup<'_>) -> Result<Option<String>, BadSetting> {
    let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
    let file = match (set("GANNET_AMQP_URL"), set("GANNET_AMQP_URL_FILE")) {
        (url, None) => return Ok(url),
        (None, Some(file)) => file,
        (Some(_), Some(file)) => {
            return Err(bad("GANNET_AMQP_URL_FILE", &file, "GANNET_AMQP_URL is set, too: one of them is accepted"));
        }
    };
    let accepted = "a file that holds an address like amqp://user:password@host:5672/%2f is accepted";
    match std::fs::read_to_string(&file) {
        Ok(text) if text.trim().is_empty() => {
            Err(bad("GANNET_AMQP_URL_FILE", &file, &format!("{accepted}; this one is empty")))
        }
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) => Err(bad("GANNET_AMQP_URL_FILE", &file, &format!("{accepted} ({error})"))),
    }
}

/// What to do about a server whose certificate is not accepted, where that is what `error` says.
pub(crate) fn certificate_hint(error: &str) -> Option<&'static str> {
    error.contains("invalid peer certificate").then_some(
        "name the file with its CA's certificate (PEM) in SSL_CERT_FILE, and use the host's name that stands in its certificate",
    )
}

impl QueuePlace {
    /// Reads `GANNET_AMQP_URL`, or the file `GANNET_AMQP_URL_FILE`, and `GANNET_HOME`, for programs that need no store.
    ///
    /// # Errors
    /// An address that cannot be used.
    pub fn read(lookup: Lookup<'_>) -> Result<Self, BadSetting> {
        match amqp_url(lookup)? {
            None => Ok(Self::File(home(lookup).join("queue.sqlite"))),
            Some(url) if url.starts_with("amqp://") || url.starts_with("amqps://") => Ok(Self::Amqp(url)),
            Some(url) => Err(bad(
                "GANNET_AMQP_URL",
                &redact(&url),
                "an address like amqp://user:password@host:5672/%2f is accepted; without one the embedded queue is used",
            )),
        }
    }
}

fn home(lookup: Lookup<'_>) -> PathBuf {
    lookup("GANNET_HOME").filter(|value| !value.is_empty()).unwrap_or_else(|| ".gannet".into()).into()
}

/// Processors this process may use.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
}

fn store_place(text: &str, endpoint: Option<String>) -> Result<StorePlace, BadSetting> {
    let refused = || bad("GANNET_STORE", text, "s3://bucket, s3://bucket/prefix or file:///path is accepted");
    if let Some(path) = text.strip_prefix("file://") {
        return if path.starts_with('/') { Ok(StorePlace::Dir(path.into())) } else { Err(refused()) };
    }
    let rest = text.strip_prefix("s3://").ok_or_else(refused)?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_end_matches('/');
    let bucket_fits = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b));
    let prefix_fits = prefix.is_empty() || crate::names::Key::new(prefix).is_ok();
    if !bucket_fits || !prefix_fits {
        return Err(refused());
    }
    Ok(StorePlace::S3 { bucket: bucket.into(), prefix: prefix.into(), endpoint })
}

fn bad(variable: &str, found: &str, accepted: &str) -> BadSetting {
    BadSetting { variable: variable.into(), found: found.into(), accepted: accepted.into() }
}

/// An address without its password.
pub fn redact(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    // The last `@` before the path: a password may hold one.
    let authority_end = rest.find('/').unwrap_or(rest.len());
    let Some(at) = rest[..authority_end].rfind('@') else { return url.to_owned() };
    let user = rest[..at].split(':').next().unwrap_or_default();
    format!("{scheme}://{user}:***@{}", &rest[at + 1..])
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places")
            .field("queue", &self.queue)
            .field("store", &self.store)
            .field("home", &self.home)
            .finish()
    }
}

impl fmt::Debug for QueuePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for QueuePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Amqp(url) => f.write_str(&redact(url)),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Debug for StorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for StorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, prefix, endpoint } => {
                write!(f, "s3://{bucket}")?;
                if !prefix.is_empty() {
                    write!(f, "/{prefix}")?;
                }
                endpoint.as_ref().map_or(Ok(()), |endpoint| write!(f, " at {}", redact(endpoint)))
            }
            Self::Dir(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Places, BadSetting> {
        Places::read(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn without_variables_everything_is_in_one_folder() {
        let places = read(&[]).expect("defaults");
        assert!(places.is_embedded());
        assert_eq!(places.store, StorePlace::Dir(".gannet/store".into()));
    }

    #[test]
    fn reads_a_fleet() {
        let places = read(&[
            ("GANNET_AMQP_URL", "amqp://u:p@host/%2f"),
            ("GANNET_STORE", "s3://bucket/some/prefix/"),
            ("GANNET_S3_ENDPOINT", "http://localhost:9000"),
        ])
        .expect("valid");
        assert!(!places.is_embedded());
        assert_eq!(places.store.to_string(), "s3://bucket/some/prefix at http://localhost:9000");
    }

    #[test]
    fn an_error_names_the_variable_and_an_accepted_value() {
        for (variables, expected) in [
            (
                vec![("GANNET_AMQP_URL", "localhost:5672")],
                "GANNET_AMQP_URL is `localhost:5672`: an address like amqp://",
            ),
            (vec![("GANNET_STORE", "bucket")], "GANNET_STORE is `bucket`: s3://bucket"),
            (vec![("GANNET_STORE", "s3://B")], "GANNET_STORE is `s3://B`"),
            (vec![("GANNET_AMQP_URL", "amqp://host")], "GANNET_STORE is ``: with GANNET_AMQP_URL"),
            (vec![("GANNET_S3_ENDPOINT", "host:9000")], "GANNET_S3_ENDPOINT is `host:9000`"),
        ] {
            let error = read(&variables).expect_err("refused").to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn the_brokers_address_may_lie_in_a_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        let store = ("GANNET_STORE", "s3://bucket");
        let secret = file("secret", "amqps://u:p@host/%2f\n");
        let places = read(&[("GANNET_AMQP_URL_FILE", &secret), store]).expect("valid");
        assert!(matches!(&places.queue, QueuePlace::Amqp(url) if url == "amqps://u:p@host/%2f"));
        let (missing, empty) = (folder.path().join("missing").display().to_string(), file("empty", " \n"));
        for (variables, expected) in [
            (vec![("GANNET_AMQP_URL_FILE", missing.as_str()), store], "No such file"),
            (vec![("GANNET_AMQP_URL_FILE", &empty), store], "this one is empty"),
            (vec![("GANNET_AMQP_URL_FILE", &secret), ("GANNET_AMQP_URL", "amqp://host"), store], "one of them"),
        ] {
            let error = read(&variables).expect_err("refused").to_string();
            assert!(error.starts_with("GANNET_AMQP_URL_FILE is `") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_misspelt_variable_is_told_with_the_nearest() {
        let told = |name| misspelt([name]).pop();
        assert_eq!(
            told("GANNET_STOER").as_deref(),
            Some("the variable GANNET_STOER is not read: did you mean GANNET_STORE?")
        );
        assert_eq!(
            told("GANNET_S3_ENDPONT").as_deref(),
            Some("the variable GANNET_S3_ENDPONT is not read: did you mean GANNET_S3_ENDPOINT?")
        );
        assert!(told("GANNET_BANANAS_AND_PLUMS").is_some_and(|text| text.contains("there are GANNET_AMQP_URL, ")));
        for other in ["GANNET_STORE", "GANNET_TEST_S3", "GANNET_WORKER_PORT_80_TCP", "GANNET_SERVICE_HOST", "PATH"] {
            assert_eq!(told(other), None);
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(redact("amqp://user:secret@host:5672/%2f"), "amqp://user:***@host:5672/%2f");
        assert_eq!(redact("amqp://user:se@cret@host"), "amqp://user:***@host");
        assert_eq!(redact("amqp://host"), "amqp://host");
        assert!(!format!("{:?}", QueuePlace::Amqp("amqp://u:secret@h".into())).contains("secret"));
    }
}
