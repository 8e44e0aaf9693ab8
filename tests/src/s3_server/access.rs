//! Who may ask, and over what: access keys, and TLS.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Options;

/// The access keys: one that is always there, and those of a folder. Whoever has one may do everything.
pub(super) struct Keys {
    access_key: String,
    secret_key: String,
    users: Option<PathBuf>,
}

impl Keys {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            access_key: options.access_key.clone(),
            secret_key: options.secret_key.clone(),
            users: options.users.clone(),
        }
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.access_key {
            return Ok(self.secret_key.as_str().into());
        }
        let is_a_name = access_key.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        let found = self.users.as_ref().filter(|_| is_a_name).map(|users| fs::read_to_string(users.join(access_key)));
        match found {
            Some(Ok(secret)) => Ok(secret.trim().into()),
            _ => Err(s3_error!(InvalidAccessKeyId)),
        }
    }
}

/// What makes a connection one of TLS, with the chain and the key in these two files.
pub(super) fn acceptor((chain, key): &(PathBuf, PathBuf)) -> anyhow::Result<TlsAcceptor> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect)
        .with_context(|| format!("read the certificates in `{}`", chain.display()))?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("read the key in `{}`", key.display()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key))
        .context("use the certificate")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
