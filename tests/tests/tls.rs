//! TLS to broker and store, with a certificate authority of one's own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::{Fleet, Folder, LIMIT, Process, eventually, skipped, studies};

/// Makes an authority and certificates for servers on this machine; `None` where there is no `openssl`.
fn authority(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    if Command::new("openssl").arg("version").output().is_err() {
        return Ok(None);
    }
    let folder = folder.join(name);
    let made = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../infra/tls/make.sh"))
        .arg(&folder)
        .args(["rabbitmq=localhost", "store=localhost"])
        .output()
        .context("run infra/tls/make.sh")?;
    ensure!(made.status.success(), "infra/tls/make.sh: {}", String::from_utf8_lossy(&made.stderr));
    Ok(Some(folder))
}

/// A store that speaks TLS; returns its port, too.
async fn store(folder: &Path, certificates: &Path) -> Result<(Process, String)> {
    let text = |path: PathBuf| path.display().to_string();
    let (root, chain, key) =
        (text(folder.join("tls-store")), text(certificates.join("store.pem")), text(certificates.join("store.key")));
    let args = ["--root", &root, "--tls-certificate", &chain, "--tls-key", &key];
    let mut server = Process::start("tls-store", "s3-server", &args, &[], folder)?;
    let endpoint = eventually(LIMIT, "the store listens", async || {
        server.must_run()?;
        Ok(server
            .stdout()
            .lines()
            .find_map(|line| line.strip_prefix("listening on https://127.0.0.1:").map(str::to_owned)))
    })
    .await?;
    Ok((server, endpoint))
}

#[tokio::test]
async fn a_fleet_speaks_tls_with_an_authority_of_its_own() {
    let name = "a_fleet_speaks_tls_with_an_authority_of_its_own";
    let folder = Folder::new().expect("a temporary folder");
    let (Some(ours), Some(wrong)) = (
        authority(folder.path(), "ours").expect("certificates"),
        authority(folder.path(), "wrong").expect("certificates"),
    ) else {
        return skipped(name, "openssl is not installed");
    };
    // Free now; nobody else in this test takes one.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port").port();
    let file = |name: &str| ours.join(name).display().to_string();
    let lines = [
        format!("listeners.ssl.1 = 127.0.0.1:{port}"),
        format!("ssl_options.cacertfile = {}", file("ca.pem")),
        format!("ssl_options.certfile = {}", file("rabbitmq.pem")),
        format!("ssl_options.keyfile = {}", file("rabbitmq.key")),
        "ssl_options.verify = verify_none".into(),
        "ssl_options.versions.1 = tlsv1.3".into(),
        "ssl_options.versions.2 = tlsv1.2".into(),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    Fleet::run_with_broker(name, &lines, async |fleet: &mut Fleet| {
        let (_store, store_port) = store(fleet.path(), &ours).await?;
        let plain = fleet.amqp_url();
        let vhost = plain.rsplit_once('/').context("an address with a virtual host")?.1;
        let env = |authority: &Path, host: &str| -> Vec<(String, String)> {
            [
                ("GANNET_AMQP_URL", format!("amqps://gannet:gannet@{host}:{port}/{vhost}")),
                ("GANNET_STORE", "s3://gannet-test/tls".into()),
                ("GANNET_S3_ENDPOINT", format!("https://{host}:{store_port}")),
                ("AWS_ACCESS_KEY_ID", "test".into()),
                ("AWS_SECRET_ACCESS_KEY", "testtest".into()),
                ("SSL_CERT_FILE", authority.join("ca.pem").display().to_string()),
                ("GANNET_SLOTS", "1".into()),
                ("GANNET_LOG", "info".into()),
            ]
            .map(|(variable, value)| (variable.to_owned(), value))
            .into()
        };
        let right = env(&ours, "localhost");
        let gannet =
            async |args: &[&str]| Process::start("gannet", "gannet", args, &right, fleet.path())?.succeed(LIMIT).await;
        tests::Pictures { train: 360, test: 90 }.write(&fleet.path().join("pictures"))?;
        gannet(&["data", "push", "pictures", "--name", "bars"]).await?;
        let mut worker = Process::start("worker", "gannet-worker", &[], &right, fleet.path())?;
        fleet.write("study.toml", &studies::quick())?;
        gannet(&["tune", "study.toml", "--run", "safe"]).await?;
        worker.terminate()?;
        ensure!(worker.wait(LIMIT).await?.success(), "{}", worker.stderr());

        // Another authority; and a server that is not who its certificate says.
        let other_name = env(&ours, "127.0.0.1");
        for (what, mut env) in [("another authority", env(&wrong, "localhost")), ("another name", other_name)] {
            for server in ["broker", "store"] {
                if server == "store" {
                    env.retain(|(variable, _)| variable != "GANNET_AMQP_URL");
                    env.push(("GANNET_AMQP_URL".into(), fleet.amqp_url()));
                }
                let mut refused = Process::start("refused", "gannet", &["run", "list"], &env, fleet.path())?;
                ensure!(!refused.wait(LIMIT).await?.success(), "{what}, {server}: it went well");
                let said = refused.stderr();
                ensure!(
                    said.contains("invalid peer certificate") && said.contains("SSL_CERT_FILE"),
                    "{what}, {server}: {said}"
                );
            }
        }
        // A worker waits, since a server may get another certificate, and says the same.
        let wrong = env(&wrong, "localhost");
        let mut waiting = Process::start("waiting", "gannet-worker", &[], &wrong, fleet.path())?;
        eventually(LIMIT, "the worker says what to set", async || {
            waiting.must_run()?;
            Ok(waiting.stderr().contains("SSL_CERT_FILE").then_some(()))
        })
        .await?;
        waiting.terminate()?;
        ensure!(waiting.wait(LIMIT).await?.success(), "{}", waiting.stderr());
        Ok(())
    })
    .await;
}
