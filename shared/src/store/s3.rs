//! A store in a bucket of any S3-compatible service.
//!
//! `create` is a PUT with `If-None-Match: *`, which the service must decide atomically: [`super::probe`]
//! checks that. Objects are written by one PUT, which S3 takes up to 5 GiB; parts would be needed above.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Config;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use aws_sdk_s3::primitives::ByteStream;
use backon::{ExponentialBuilder, Retryable};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWriteExt, BufWriter};

use super::{Created, Entry, MAX_SMALL, Store, StoreError};
use crate::names::Key;

mod connect;
mod errors;
mod lines;

use errors::Asked;

/// The largest object that one PUT may write, in bytes: S3's own limit.
const MAX_PUT: u64 = 5 * 1024 * 1024 * 1024;

/// The slowest upload that is waited for, in bytes a second: two megabits, a poor line. Without such
/// an allowance the limit on an answer's first byte, which counts from the request's begin, would end
/// every large upload.
const SLOWEST_UPLOAD: u64 = 256 * 1024;

/// A store in a bucket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct S3Store {
    client: Client,
    bucket: String,
    /// Before every key: empty, or ends with a slash.
    prefix: String,
    place: String,
}

impl S3Store {
    /// A store in `bucket` under `prefix`, at `endpoint` or else Amazon's. Credentials and region come
    /// from the usual `AWS_*` variables, profiles or the machine's role.
    ///
    /// # Errors
    /// [`StoreError::Refused`] at once where no credentials or no region can be found.
    pub async fn open(bucket: &str, prefix: &str, endpoint: Option<&str>) -> Result<Self, StoreError> {
        let place = place(bucket, prefix, endpoint);
        let client = connect::from_environment(&place, endpoint).await?;
        Ok(Self::new(client, bucket, prefix, place))
    }

    /// The same with keys of the caller's own in place of the environment's.
    pub async fn with_keys(bucket: &str, prefix: &str, endpoint: &str, access_key: &str, secret_key: &str) -> Self {
        let place = place(bucket, prefix, Some(endpoint));
        let client = connect::with_keys(&place, endpoint, access_key, secret_key).await;
        Self::new(client, bucket, prefix, place)
    }

    fn new(client: Client, bucket: &str, prefix: &str, place: String) -> Self {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Self { client, bucket: bucket.into(), prefix, place }
    }

    fn full(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    fn asked<'a>(&'a self, verb: &'static str, key: &'a Key) -> Asked<'a> {
        Asked { place: &self.place, bucket: &self.bucket, verb, key }
    }

    async fn object(&self, key: &Key) -> Result<GetObjectOutput, Broken> {
        let request = self.client.get_object().bucket(&self.bucket).key(self.full(key));
        request.send().await.map_err(|error| Broken::Final(self.asked("read", key).failed(&error)))
    }

    /// One attempt at a small object. The SDK tries requests again, never a body that breaks off.
    async fn read(&self, key: &Key) -> Result<Bytes, Broken> {
        let mut object = self.object(key).await?;
        let told = object.content_length.and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
        let too_large = |size| Broken::Final(StoreError::TooLarge { key: key.clone(), size, limit: MAX_SMALL });
        if told > MAX_SMALL {
            return Err(too_large(told));
        }
        let mut body = BytesMut::with_capacity(usize::try_from(told).unwrap_or_default());
        while let Some(piece) = object.body.next().await {
            body.extend_from_slice(&piece.map_err(|error| self.asked("read", key).broken(&error))?);
            if body.len() as u64 > MAX_SMALL {
                return Err(too_large(body.len() as u64));
            }
        }
        Ok(body.freeze())
    }

    async fn read_into(&self, key: &Key, to: &Path) -> Result<u64, Broken> {
        let mut object = self.object(key).await?;
        let local = |source| Broken::Final(StoreError::Local { what: "write", path: to.into(), source });
        let file = tokio::fs::File::create(to).await.map_err(local)?;
        // Each write to a file is a trip to another thread: few and large ones.
        let mut file = BufWriter::with_capacity(1024 * 1024, file);
        let mut size = 0;
        while let Some(piece) = object.body.next().await {
            let piece = piece.map_err(|error| self.asked("read", key).broken(&error))?;
            file.write_all(&piece).await.map_err(local)?;
            size += piece.len() as u64;
        }
        file.flush().await.map_err(local)?;
        Ok(size)
    }

    fn writing(&self, key: &Key, body: ByteStream) -> PutObjectFluentBuilder {
        self.client.put_object().bucket(&self.bucket).key(self.full(key)).body(body)
    }

    async fn write(&self, key: &Key, body: ByteStream, size: u64) -> Result<(), StoreError> {
        if size > MAX_PUT {
            return Err(StoreError::TooLarge { key: key.clone(), size, limit: MAX_PUT });
        }
        let sent = send(self.writing(key, body), size).await;
        sent.map(drop).map_err(|error| self.asked("write", key).failed(&error))
    }

    /// One attempt at a conditional write; `Broken::Passing` where the service asks to try again.
    async fn write_if_none(&self, key: &Key, body: Bytes) -> Result<Created, Broken> {
        let size = body.len() as u64;
        match send(self.writing(key, body.into()).if_none_match("*"), size).await {
            Ok(_) => Ok(Created::New),
            Err(error) => match errors::status(&error) {
                Some(412) => Ok(Created::Exists),
                Some(409) => Err(Broken::Passing(self.asked("create", key).conflict(&error))),
                Some(501) => Err(Broken::Final(self.asked("create", key).no_conditional_writes(&error))),
                _ => Err(Broken::Final(self.asked("create", key).failed(&error))),
            },
        }
    }
}

#[async_trait]
impl Store for S3Store {
    fn place(&self) -> String {
        self.place.clone()
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        again(|| self.read(key)).await
    }

    async fn download(&self, key: &Key, to: &Path) -> Result<u64, StoreError> {
        again(|| self.read_into(key, to)).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        let size = body.len() as u64;
        self.write(key, body.into(), size).await
    }

    async fn upload(&self, key: &Key, from: &Path) -> Result<(), StoreError> {
        let local = |source| StoreError::Local { what: "read", path: from.into(), source };
        let size = tokio::fs::metadata(from).await.map_err(local)?.len();
        let body = ByteStream::read_from().path(from).buffer_size(256 * 1024).build().await;
        self.write(key, body.map_err(|error| local(std::io::Error::other(error)))?, size).await
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Created, StoreError> {
        again(|| self.write_if_none(key, body.clone())).await
    }

    async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(format!("{}/", self.full(prefix)));
        let mut pages = request.into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.asked("list", prefix).failed(&error))?;
            for object in page.contents() {
                let key = object.key().and_then(|key| key.strip_prefix(&self.prefix));
                // What no key can name is foreign, like a console's folder markers.
                let Some(Ok(key)) = key.map(Key::new) else { continue };
                let size = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
                let modified = object.last_modified().and_then(|at| jiff::Timestamp::from_second(at.secs()).ok());
                found.push(Entry { key, size, modified });
            }
        }
        // Amazon's directory buckets list in no order.
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    async fn children(&self, prefix: &Key) -> Result<Vec<String>, StoreError> {
        let above = format!("{}/", self.full(prefix));
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(&above).delimiter("/");
        let mut pages = request.into_paginator().send();
        let mut names = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.asked("list", prefix).failed(&error))?;
            let folders = page.common_prefixes().iter().filter_map(|folder| folder.prefix());
            let objects = page.contents().iter().filter_map(|object| object.key());
            let parts = folders.chain(objects).filter_map(|key| key.strip_prefix(&above));
            names.extend(parts.map(|part| part.trim_end_matches('/').to_owned()).filter(|part| Key::new(part).is_ok()));
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let request = self.client.delete_object().bucket(&self.bucket).key(self.full(key));
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) => match self.asked("delete", key).failed(&error) {
                StoreError::NotFound { .. } => Ok(()),
                error => Err(error),
            },
        }
    }
}

/// Why an attempt came to nothing, when the SDK does not try again by itself.
enum Broken {
    /// A body broke off, or a conflict: another attempt may succeed.
    Passing(StoreError),
    /// Another attempt is of no use, or the SDK has made several.
    Final(StoreError),
}

/// Attempts what may break, six times over about three seconds.
async fn again<T, F: Future<Output = Result<T, Broken>>>(attempt: impl FnMut() -> F) -> Result<T, StoreError> {
    let pauses = ExponentialBuilder::new()
        .with_jitter()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(1))
        .with_max_times(6);
    let done = attempt.retry(pauses).when(|broken| matches!(broken, Broken::Passing(_))).await;
    done.map_err(|(Broken::Passing(error) | Broken::Final(error))| error)
}

/// Sends a request whose body has `size` bytes. A large one gets the time it needs; a small one has the client's limits,
/// since a configuration of its own costs a good part of what the request costs.
async fn send(request: PutObjectFluentBuilder, size: u64) -> Result<PutObjectOutput, SdkError<PutObjectError>> {
    match size / SLOWEST_UPLOAD {
        0 => request.send().await,
        extra => {
            let limits = connect::time_limits(Duration::from_secs(extra));
            request.customize().config_override(Config::builder().timeout_config(limits)).send().await
        }
    }
}

fn place(bucket: &str, prefix: &str, endpoint: Option<&str>) -> String {
    crate::settings::StorePlace::S3 {
        bucket: bucket.into(),
        prefix: prefix.into(),
        endpoint: endpoint.map(ToOwned::to_owned),
    }
    .to_string()
}

#[cfg(test)]
mod tests;
