//! An open queue and store, or an error that says where was looked and how to start one.

use std::sync::Arc;

use anyhow::anyhow;
use shared::queue::{Queue, QueueError};
use shared::settings::{Places, QueuePlace, StorePlace};
use shared::store::{Store, StoreError};
use shared::{queue, store};

/// What every command works with.
#[derive(Debug, Clone)]
pub struct Session {
    /// Where everything is.
    pub places: Places,
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// The store.
    pub store: Arc<dyn Store>,
}

/// Reads where the queue and the store are from the environment.
///
/// # Errors
/// A variable that cannot be used.
pub fn places() -> anyhow::Result<Places> {
    Ok(Places::read(&|name| std::env::var(name).ok())?)
}

impl Session {
    /// Opens both.
    ///
    /// # Errors
    /// One of them cannot be reached or refuses; the error says how to start one.
    pub async fn open() -> anyhow::Result<Self> {
        let places = places()?;
        let store = open_store(&places).await?;
        let queue = queue::open(&places).await.map_err(|error| explain_queue(error, &places.queue))?;
        Ok(Self { places, queue, store })
    }
}

/// Opens the store alone, for commands that enqueue nothing.
///
/// # Errors
/// It cannot be reached or refuses; the error says how to start one.
pub async fn open_store(places: &Places) -> anyhow::Result<Arc<dyn Store>> {
    let opened = async {
        let store = store::open(places).await?;
        // A store whose conditional writes are none would lose results silently, later.
        if matches!(places.store, StorePlace::S3 { .. }) {
            store::probe::probe(&store).await?;
        }
        Ok(store)
    };
    opened.await.map_err(|error| explain_store(error, &places.store))
}

fn explain_queue(error: QueueError, place: &QueuePlace) -> anyhow::Error {
    let hint = match place {
        QueuePlace::Amqp(_) => {
            "start RabbitMQ with `docker compose -f infra/docker-compose.yml up -d rabbitmq` (or `apt-get install rabbitmq-server`), check GANNET_AMQP_URL, or unset it to work without servers"
        }
        QueuePlace::File(_) => "check that the folder can be written, or name another with GANNET_HOME",
    };
    anyhow!(error).context(format!("open the queue ({hint})"))
}

fn explain_store(error: StoreError, place: &StorePlace) -> anyhow::Error {
    let hint = match place {
        StorePlace::S3 { .. } => {
            "start an S3 server with `docker compose -f infra/docker-compose.yml up -d bucket`, check GANNET_STORE, GANNET_S3_ENDPOINT and the AWS_* variables, or unset them to work without servers"
        }
        StorePlace::Dir(_) => "check that the folder can be written, or name another with GANNET_HOME or GANNET_STORE",
    };
    anyhow!(error).context(format!("open the store ({hint})"))
}
