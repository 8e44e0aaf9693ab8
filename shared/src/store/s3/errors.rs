//! What the SDK's errors mean to people: where, what was asked, what to check.

use std::error::Error;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStreamError;

use super::Broken;
use crate::names::Key;
use crate::store::StoreError;

/// The status of the service's answer, where it gave one.
pub(super) fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// An error and everything beneath it, each told once.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut told: Vec<String> = Vec::new();
    for cause in std::iter::successors(Some(error), |&error| error.source()) {
        let text = cause.to_string();
        if !text.is_empty() && !told.iter().any(|earlier| earlier.contains(&text)) {
            told.push(text);
        }
    }
    told.join(": ")
}

/// A request that failed.
pub(super) struct Asked<'a> {
    pub(super) place: &'a str,
    pub(super) bucket: &'a str,
    pub(super) verb: &'static str,
    pub(super) key: &'a Key,
}

impl Asked<'_> {
    pub(super) fn failed<E>(&self, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match error {
            SdkError::ServiceError(answer) => self.answered(answer.raw().status().as_u16(), answer.err()),
            SdkError::ConstructionFailure(_) => self.refused(&chain(error)),
            // Credentials that ran out and cannot be renewed come as a dispatch failure.
            SdkError::DispatchFailure(failure) if !failure.is_io() && !failure.is_timeout() => self.unreachable(
                &format!("{}; check the endpoint's address, its certificate and your credentials", chain(error)),
            ),
            SdkError::ResponseError(_) => {
                self.unreachable(&format!("{}; is the endpoint an S3 service?", chain(error)))
            }
            _ => {
                let said = chain(error);
                let hint = crate::settings::certificate_hint(&said)
                    .unwrap_or("is the service running, and its address right?");
                self.unreachable(&format!("{said}; {hint}"))
            }
        }
    }

    /// An answer whose body broke off.
    pub(super) fn broken(&self, error: &ByteStreamError) -> Broken {
        let reason = format!("`{}` broke off: {}", self.key, chain(error));
        Broken::Passing(StoreError::Unreachable { place: self.place.into(), reason })
    }

    /// Another conditional write of the same key was under way (409).
    pub(super) fn conflict(&self, error: &(dyn Error + 'static)) -> StoreError {
        self.unreachable(&format!("others write this key at the same time: {}", chain(error)))
    }

    /// The service does not know `If-None-Match` (501).
    pub(super) fn no_conditional_writes(&self, error: &(dyn Error + 'static)) -> StoreError {
        StoreError::Refused {
            place: self.place.into(),
            what: "conditional writes".into(),
            reason: format!("{}; {}", chain(error), crate::store::probe::ACCEPTED),
        }
    }

    fn answered<E: ProvideErrorMetadata>(&self, status: u16, error: &E) -> StoreError {
        let code = error.code().unwrap_or_default();
        let said = match error.message() {
            Some(message) => format!("{status} {code}, {message}"),
            None => format!("{status} {code}").trim_end().to_owned(),
        };
        match (status, code) {
            (_, "NoSuchBucket") => self.refused(&format!(
                "{said}; create the bucket `{}`, or correct GANNET_STORE and GANNET_S3_ENDPOINT",
                self.bucket
            )),
            (404, _) => StoreError::NotFound { key: self.key.clone(), place: self.place.into() },
            (500 | 502..=599 | 429 | 408, _) | (_, "RequestTimeout" | "SlowDown" | "Throttling") => {
                self.unreachable(&format!("it answered {said}"))
            }
            (_, "RequestTimeTooSkewed") => self.refused(&format!("{said}; set this machine's clock")),
            (301 | 307, _) | (_, "AuthorizationHeaderMalformed" | "PermanentRedirect") => {
                self.refused(&format!("{said}; set AWS_REGION to the bucket's region"))
            }
            (401 | 403, _) | (_, "InvalidToken" | "ExpiredToken" | "InvalidAccessKeyId") => self.refused(&format!(
                "{said}; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that they may read, write, list and delete in the bucket `{}`",
                self.bucket
            )),
            _ => self.refused(&said),
        }
    }

    fn unreachable(&self, reason: &str) -> StoreError {
        let reason = format!("cannot {} `{}`: {reason}", self.verb, self.key);
        StoreError::Unreachable { place: self.place.into(), reason }
    }

    fn refused(&self, reason: &str) -> StoreError {
        let what = format!("to {} `{}`", self.verb, self.key);
        StoreError::Refused { place: self.place.into(), what, reason: reason.into() }
    }
}
