//! Faults of the service itself: what a server in trouble answers, by rules in a file that a test writes while it runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::Context;
use bytes::BytesMut;
use futures::TryStreamExt;
use s3s::dto::{GetObjectOutput, StreamingBlob};
use s3s::{Body, S3Error, S3ErrorCode, S3Response, S3Result, s3_error};
use serde::{Deserialize, Serialize};

/// Which requests go wrong, and how. The first rule that fits a request decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// As the S3 reference calls it (`GetObject`); all of them without one.
    #[serde(default)]
    pub operation: Option<String>,
    /// What the key must hold; any key without it.
    #[serde(default)]
    pub key: Option<String>,
    /// The first of so many requests that fit, and then every so many'th.
    pub every: u64,
    /// What happens to it.
    pub fault: Fault,
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Nothing is done, and the answer is the error of this code, like `SlowDown` (503) or `InternalError` (500).
    Answer(String),
    /// It is done, and the answer is an internal error.
    LostAnswer,
    /// An object comes with one byte changed.
    Altered,
    /// The first half of an object comes as if it were the whole.
    Truncated,
}

impl Rule {
    /// A rule for every so many'th request.
    pub fn every(every: u64, fault: Fault) -> Self {
        Self { operation: None, key: None, every, fault }
    }

    /// Likewise for reading objects whose key holds `key`.
    pub fn reading(key: &str, every: u64, fault: Fault) -> Self {
        Self { operation: Some("GetObject".into()), key: Some(key.into()), every, fault }
    }

    fn fits(&self, operation: &str, key: &str) -> bool {
        self.operation.as_deref().is_none_or(|wanted| wanted == operation)
            && self.key.as_deref().is_none_or(|part| key.contains(part))
    }
}

/// Puts rules in force, in place of those before; without any the service is sound.
///
/// # Errors
/// The disk refuses.
pub fn write_rules(file: &Path, rules: &[Rule]) -> anyhow::Result<()> {
    // All at once: the server must not read half of them.
    let fresh = file.with_extension("new");
    let text = serde_json::to_vec(rules).context("write rules as JSON")?;
    fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, file)).context("write the S3 server's faults")
}

/// The rules in force.
#[derive(Debug)]
pub(super) struct Faults {
    file: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    read: Option<(SystemTime, u64)>,
    /// Each with the number of requests that fitted.
    rules: Vec<(Rule, u64)>,
}

impl Faults {
    /// Those in `file`, whenever it is there.
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self { file, state: Mutex::default() }
    }

    /// What is to happen to this request.
    pub(super) fn next(&self, operation: &str, key: &str) -> Option<Fault> {
        let file = self.file.as_deref()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let found = fs::metadata(file).ok().and_then(|found| Some((found.modified().ok()?, found.len())));
        if state.read != found {
            state.read = found;
            state.rules = match fs::read(file).map(|text| serde_json::from_slice::<Vec<Rule>>(&text)) {
                Ok(Ok(rules)) => rules.into_iter().map(|rule| (rule, 0)).collect(),
                Ok(Err(error)) => {
                    tracing::error!(%error, "these are no rules");
                    Vec::new()
                }
                Err(_) => Vec::new(),
            };
        }
        let (rule, fitted) = state.rules.iter_mut().find(|(rule, _)| rule.fits(operation, key))?;
        *fitted += 1;
        (*fitted - 1).is_multiple_of(rule.every.max(1)).then(|| rule.fault.clone())
    }
}

/// Does `work`, unless the fault keeps it from being done, and answers as the fault wants.
pub(super) async fn under<T>(
    fault: Option<&Fault>,
    work: impl Future<Output = S3Result<S3Response<T>>>,
) -> S3Result<S3Response<T>> {
    match fault {
        Some(Fault::Answer(code)) => {
            let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
            Err(S3Error::with_message(code, "as a test wants it"))
        }
        Some(Fault::LostAnswer) => {
            work.await?;
            Err(s3_error!(InternalError, "it is done, as a test wants it"))
        }
        Some(Fault::Altered | Fault::Truncated) | None => work.await,
    }
}

/// The object that a fault leaves of `answer`.
pub(super) async fn damaged(
    fault: Option<&Fault>,
    mut answer: S3Response<GetObjectOutput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    if !matches!(fault, Some(Fault::Altered | Fault::Truncated)) {
        return Ok(answer);
    }
    let output = &mut answer.output;
    let mut bytes = BytesMut::new();
    if let Some(body) = output.body.take() {
        let failed = |error: s3s::StdError| S3Error::with_message(S3ErrorCode::InternalError, error.to_string());
        let pieces: Vec<_> = body.try_collect().await.map_err(failed)?;
        pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
    }
    let half = bytes.len() / 2;
    if fault == Some(&Fault::Truncated) {
        bytes.truncate(half);
    } else if let Some(byte) = bytes.get_mut(half) {
        *byte ^= 1;
    }
    output.content_length = i64::try_from(bytes.len()).ok();
    output.body = Some(StreamingBlob::from(Body::from(bytes.freeze())));
    Ok(answer)
}
