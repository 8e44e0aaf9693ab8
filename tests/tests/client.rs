//! A client in another language: Python with `pika`, a job written by hand, the result on its own queue.

use std::process::Command;

use anyhow::ensure;
use serde_json::Value;
use tests::{Fleet, LIMIT, Process, skipped};

#[tokio::test]
async fn a_python_client_gets_its_result_on_its_own_queue() {
    let name = "a_python_client_gets_its_result_on_its_own_queue";
    let Some(python) = std::env::var_os("GANNET_TEST_PYTHON") else {
        return skipped(name, "GANNET_TEST_PYTHON is not set: tests/run sets it where it can install pika");
    };
    Fleet::run(name, async |fleet| {
        let dataset = fleet.push_pictures().await?;
        let job_schema = fleet.write("job.schema.json", &fleet.gannet(&["schema", "job"]).await?)?;
        let result_schema = fleet.write("result.schema.json", &fleet.gannet(&["schema", "result"]).await?)?;
        let mut worker = fleet.worker("server")?;
        let mut client = Command::new(&python);
        client.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/python/client.py")).arg(fleet.amqp_url());
        client.args([job_schema, result_schema]).arg(dataset.to_string());
        let printed = Process::spawn("client", &mut client, &[], fleet.path())?.succeed(LIMIT).await?;
        let result: Value = serde_json::from_str(&printed)?;
        ensure!(result["id"] == "by-hand" && result["status"] == "done", "the job is done: {result}");
        ensure!(result["outcome"]["trial"]["epochs"].as_array().is_some_and(|epochs| epochs.len() == 2), "{result}");
        let committed = fleet.results("python")?;
        ensure!(committed == [result], "the reply is what was committed: {committed:?}");
        worker.must_run()
    })
    .await;
}
