//! How a client is made: HTTP, credentials, region, time limits, retries. Asks the service nothing.

use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::credentials::EnvironmentVariableCredentialsProvider;
use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::credentials::ProfileFileCredentialsProvider;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_config::{BehaviorVersion, imds};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    Credentials, ProvideCredentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedCredentialsProvider, SharedHttpClient,
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

use super::errors;
use super::lines::Lines;
use crate::store::StoreError;

/// Services of one's own rarely have regions; this is what they call the one they have.
const REGION_OF_ENDPOINTS: &str = "us-east-1";

/// A client with what the environment says.
pub(super) async fn from_environment(place: &str, endpoint: Option<&str>) -> Result<Client, StoreError> {
    let missing = |what: &str, reason: String| StoreError::Refused {
        place: place.into(),
        what: format!("to work without {what}"),
        reason,
    };
    let provider = ProviderConfig::without_region().with_http_client(http());
    let own = endpoint.is_some_and(|endpoint| !endpoint.contains(".amazonaws.com"));
    let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::builder().configure(&provider).build())
        .or_else(own.then(|| Region::from_static(REGION_OF_ENDPOINTS)))
        .region()
        .await;
    let region = region.ok_or_else(|| {
        missing("a region", "set AWS_REGION to the bucket's, or GANNET_S3_ENDPOINT to your own service".into())
    })?;
    let credentials = credentials(&provider, region.clone(), own).await;
    if let Err(error) = credentials.provide_credentials().await {
        let found = errors::chain(&error);
        return Err(missing(
            "credentials",
            format!("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE ({found})"),
        ));
    }
    Ok(client(place, region, credentials, endpoint).await)
}

/// A client with these keys, in the region that services of one's own have.
pub(super) async fn with_keys(place: &str, endpoint: &str, access_key: &str, secret_key: &str) -> Client {
    let credentials = Credentials::new(access_key, secret_key, None, None, "given");
    client(place, Region::from_static(REGION_OF_ENDPOINTS), credentials, Some(endpoint)).await
}

/// The longest silence of a service that is alive. A dead line is noticed after it, so it is what a slot loses.
const SILENCE: Duration = Duration::from_secs(10);

/// Limits on every attempt. `extra` is the time that sending the request's body may take.
///
/// The read limit counts from the request's begin to the first byte of the answer; a body that stops on its way, in
/// either direction, is ended by the stalled-stream protection.
pub(super) fn time_limits(extra: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(SILENCE + extra)
        .operation_attempt_timeout(3 * SILENCE + extra)
        .build()
}

async fn client(
    place: &str,
    region: Region,
    credentials: impl ProvideCredentials + 'static,
    endpoint: Option<&str>,
) -> Client {
    // Four retries with full jitter: a refused connection is reported within three seconds.
    let retries = RetryConfig::standard()
        .with_max_attempts(5)
        .with_initial_backoff(Duration::from_millis(200))
        .with_max_backoff(Duration::from_secs(5));
    let stalled = StalledStreamProtectionConfig::enabled().grace_period(SILENCE).build();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(Lines::new(place, http))
        .region(region)
        .credentials_provider(credentials)
        .timeout_config(time_limits(Duration::ZERO))
        .retry_config(retries)
        .stalled_stream_protection(stalled)
        // Services other than Amazon's stumble over the SDK's default checksums. What matters is read
        // by its sha256 anyway.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    let loaded = loader.load().await;
    // Path style: the names `bucket.host` need a DNS zone that services of one's own rarely have.
    Client::from_conf(aws_sdk_s3::config::Builder::from(&loaded).force_path_style(true).build())
}

/// The usual chain: variables, profile, web identity, container, and for Amazon's own service the
/// machine's role.
///
/// A service of one's own (`own`) knows no such roles, so nobody asks the machine for one. Elsewhere one
/// short attempt is made: the SDK's default would keep a machine that has none waiting for long.
async fn credentials(provider: &ProviderConfig, region: Region, own: bool) -> SharedCredentialsProvider {
    if own {
        let chain = CredentialsProviderChain::first_try("variables", EnvironmentVariableCredentialsProvider::new())
            .or_else("profile", ProfileFileCredentialsProvider::builder().configure(provider).build())
            .or_else("web identity", WebIdentityTokenCredentialsProvider::builder().configure(provider).build())
            .or_else("container", EcsCredentialsProvider::builder().configure(provider).build());
        return SharedCredentialsProvider::new(chain);
    }
    let second = Duration::from_secs(1);
    let machine = imds::Client::builder()
        .configure(provider)
        .max_attempts(1)
        .connect_timeout(second)
        .read_timeout(second)
        .operation_timeout(2 * second)
        .build();
    let chain = DefaultCredentialsChain::builder().configure(provider.clone()).region(region).imds_client(machine);
    SharedCredentialsProvider::new(chain.build().await)
}

fn http() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}
